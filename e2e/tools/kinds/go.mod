// Whose kinds the chart makes objects of, for the end-to-end tests.
module harbor-pilot.dev/e2e/tools/kinds

go 1.26

// Nothing is compiled of these: the tests read the definitions of their kinds.
require (
	github.com/cert-manager/cert-manager v1.21.2
	github.com/prometheus-operator/prometheus-operator v0.85.0
)
