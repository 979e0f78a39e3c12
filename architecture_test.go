// Package roundtrip_test holds the rules that the tree itself must keep.
package roundtrip_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

type listed struct {
	ImportPath   string
	Standard     bool
	Imports      []string
	TestImports  []string
	XTestImports []string
	Deps         []string
}

func list(t *testing.T, arguments ...string) []listed {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json"}, arguments...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	var packages []listed
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

func under(path string, folders ...string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return path == f || strings.HasPrefix(path, f+"/") })
}

// rules say what a package's own imports may not be.
var rules = []struct {
	why       string
	packages  func(path string) bool
	forbidden func(path string) bool
}{
	{
		"the services share a contract, not code",
		func(p string) bool { return under(p, "roundtrip/services/orders") },
		func(i string) bool { return under(i, "roundtrip/services/inventory") },
	},
	{
		"the services share a contract, not code",
		func(p string) bool { return under(p, "roundtrip/services/inventory") },
		func(i string) bool { return under(i, "roundtrip/services/orders") },
	},
	{
		"the domain knows no framework, driver or wire",
		func(p string) bool {
			return p == "roundtrip/services/inventory/internal/stock" || p == "roundtrip/services/orders/internal/order"
		},
		func(i string) bool {
			return under(i, "net", "database", "os", "roundtrip/internal/rest", "roundtrip/internal/database", "roundtrip/internal/service",
				"roundtrip/services") || strings.Contains(i, ".") && !under(i, "golang.org/x/sync")
		},
	},
	{
		"Echo is for rest and the httpapi packages",
		func(p string) bool { return p != "roundtrip/internal/rest" && !strings.HasSuffix(p, "/httpapi") },
		func(i string) bool { return under(i, "github.com/labstack/echo") },
	},
	{
		"a wire does not know another's",
		func(p string) bool {
			return strings.HasSuffix(p, "/natsapi") || strings.HasSuffix(p, "/grpcapi") || under(p, "roundtrip/internal/messaging", "roundtrip/internal/rpc")
		},
		func(i string) bool { return under(i, "roundtrip/internal/rest") },
	},
	{
		"what both services share knows neither",
		func(p string) bool { return under(p, "roundtrip/internal") },
		func(i string) bool {
			return under(i, "roundtrip/services", "roundtrip/test", "roundtrip/contracts") && !under(i, "roundtrip/contracts/proto")
		},
	},
	{
		"problem is the standard library's",
		func(p string) bool { return p == "roundtrip/internal/problem" },
		func(i string) bool { return strings.Contains(i, ".") || under(i, "roundtrip") },
	},
	{
		"an adapter does not know another, nor how they are put together",
		adapter,
		func(i string) bool { return adapter(i) || strings.HasSuffix(i, "/app") },
	},
}

func adapter(path string) bool {
	return under(path, "roundtrip/services") && slices.ContainsFunc(
		[]string{"/httpapi", "/grpcapi", "/natsapi", "/store", "/internal/inventory"},
		func(name string) bool { return strings.HasSuffix(path, name) })
}

func TestImportsPointDownOnly(t *testing.T) {
	t.Parallel()
	packages := list(t, "./...")
	for _, rule := range rules {
		bound := 0
		for _, p := range packages {
			if !rule.packages(p.ImportPath) {
				continue
			}
			bound++
			for _, i := range p.Imports {
				if rule.forbidden(i) {
					t.Errorf("%s imports %s: %s", p.ImportPath, i, rule.why)
				}
			}
		}
		if bound == 0 {
			t.Errorf("no package is bound by: %s", rule.why)
		}
	}
}

func TestTheServicesLinkNoTestAndNoContractLibrary(t *testing.T) {
	t.Parallel()
	for _, service := range list(t, "./services/inventory", "./services/orders") {
		if len(service.Deps) < 100 {
			t.Errorf("%s has %d dependencies; was it listed?", service.ImportPath, len(service.Deps))
		}
		for _, d := range service.Deps {
			if under(d, "testing", "net/http/httptest", "pgregory.net/rapid", "github.com/getkin/kin-openapi",
				"github.com/testcontainers", "github.com/moby", "github.com/docker", "roundtrip/contracts/openapi", "roundtrip/test", "roundtrip/tools") {
				t.Errorf("%s links %s", service.ImportPath, d)
			}
		}
	}
}
