# One-word tasks. Each is a task of .ci/run, which also runs without just: `.ci/run check`.

# Lists the tasks.
default:
    @just --list

# Format and lints: minutes, without root.
check:
    .ci/run check

# The tests that need no API server.
test *arguments:
    .ci/run test {{arguments}}

# The tests on a real API server; the first run builds it.
e2e *arguments:
    .ci/run e2e {{arguments}}

# Generates CRDs, reference, config/ and the tables of the chart.
bless:
    .ci/run bless

# The image, into dist/.
image *arguments:
    .ci/run image {{arguments}}
