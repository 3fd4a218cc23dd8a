// The judge of the differential test of image references.
module harbor-pilot.dev/e2e/tools/reference

go 1.26.0

require github.com/distribution/reference v0.6.0

require github.com/opencontainers/go-digest v1.0.0 // indirect
