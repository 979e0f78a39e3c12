// Package helm has the versions of Helm that the charts support, and their paths.
package helm

import "path/filepath"

// Version is a version of Helm.
type Version string

// Four is the default version. The charts also work with Three.
const (
	Four  Version = "4.3.1"
	Three Version = "3.22.0"
)

// Package is the Go package from which to build Helm.
func (v Version) Package() string {
	return "helm.sh/helm/v" + string(v[0]) + "/cmd/helm@v" + string(v)
}

// Path is the path of Helm in a folder of tools.
func (v Version) Path(tools string) string {
	return filepath.Join(tools, "helm-"+string(v), "helm")
}
