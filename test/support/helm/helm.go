// Package helm says which Helm the charts are made for, and where it is.
package helm

import "path/filepath"

// Version is a version of Helm.
type Version string

// Four is the one that is used; Three is the last of those before, with which the
// charts work too.
const (
	Four  Version = "4.3.1"
	Three Version = "3.22.0"
)

// Package is what Go builds it from.
func (v Version) Package() string {
	return "helm.sh/helm/v" + string(v[0]) + "/cmd/helm@v" + string(v)
}

// Path is where it is, below a folder of tools.
func (v Version) Path(tools string) string {
	return filepath.Join(tools, "helm-"+string(v), "helm")
}
