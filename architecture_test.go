// Package roundtrip_test tests which packages of the tree may import which.
package roundtrip_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"roundtrip/test/support/testcache"
)

// listed is a package as go list describes it.
type listed struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Deps         []string
}

func list(t *testing.T, arguments ...string) []listed {
	t.Helper()
	testcache.Watch(t, "contracts", "deploy", "internal", "run", "services", "test", "tools")
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

// rule says what some packages may not depend on.
type rule struct {
	why string
	// bound tells whether the rule applies to a package.
	bound func(path string) bool
	// dependencies returns the dependencies of a package that the rule checks.
	dependencies func(listed) []string
	forbidden    func(path string) bool
}

// imports returns the direct imports of a package, without its tests.
func imports(p listed) []string { return p.Imports }

// reached returns all direct and indirect dependencies of a package, without its
// tests.
func reached(p listed) []string { return p.Deps }

// importsWithTests returns the direct imports of a package and of its tests.
func importsWithTests(p listed) []string {
	return slices.Concat(p.Imports, p.TestImports, p.XTestImports)
}

// violation is a package that breaks a rule, with the forbidden dependencies.
type violation struct{ why, path, dependencies string }

// violations lists every package that breaks a rule.
func violations(rules []rule, packages []listed) []violation {
	var all []violation
	for _, r := range rules {
		for _, p := range packages {
			if !r.bound(p.ImportPath) {
				continue
			}
			broken := slices.DeleteFunc(slices.Clone(r.dependencies(p)), func(d string) bool { return !r.forbidden(d) })
			if len(broken) > 0 {
				all = append(all, violation{r.why, p.ImportPath, strings.Join(broken, " ")})
			}
		}
	}
	return all
}

func under(path string, folders ...string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return path == f || strings.HasPrefix(path, f+"/") })
}

// named tells whether a package of a service has one of these names.
func named(path string, names ...string) bool {
	return under(path, "roundtrip/services") &&
		slices.ContainsFunc(names, func(name string) bool { return strings.HasSuffix(path, "/"+name) })
}

const ordersInventory = "roundtrip/services/orders/internal/inventory"

func domain(path string) bool {
	return path == "roundtrip/services/inventory/internal/stock" || path == "roundtrip/services/orders/internal/order"
}

// ofHTTP, ofGRPC and ofNATS tell whether a package belongs to that wire, or is its
// library.
func ofHTTP(path string) bool {
	return under(path, "roundtrip/internal/rest", "roundtrip/internal/restclient", "github.com/labstack/echo") || named(path, "httpapi", "httpclient")
}

func ofGRPC(path string) bool {
	return under(path, "roundtrip/internal/rpc", "roundtrip/contracts/proto", "google.golang.org/grpc") || named(path, "grpcapi", "grpcclient")
}

func ofNATS(path string) bool {
	return under(path, "roundtrip/internal/messaging", "github.com/nats-io/nats.go") || named(path, "natsapi", "natsclient")
}

func ofAnyWire(path string) bool { return ofHTTP(path) || ofGRPC(path) || ofNATS(path) }

func calling(path string) bool {
	return under(path, "roundtrip/internal/restclient", "roundtrip/internal/rpc", "roundtrip/internal/messaging", ordersInventory)
}

func server(path string) bool { return named(path, "httpapi", "grpcapi", "natsapi") }

func client(path string) bool { return named(path, "httpclient", "grpcclient", "natsclient") }

// testPackage tells whether a package of the tree is a library for tests, as
// net/http/httptest is.
func testPackage(path string) bool {
	return under(path, "roundtrip/services", "roundtrip/internal", "roundtrip/contracts") && strings.HasSuffix(path, "test")
}

var rules = []rule{
	{
		"the services share a contract, not code: orders", func(p string) bool { return under(p, "roundtrip/services/orders") }, reached,
		func(d string) bool { return under(d, "roundtrip/services/inventory") },
	},
	{
		"the services share a contract, not code: inventory", func(p string) bool { return under(p, "roundtrip/services/inventory") }, reached,
		func(d string) bool { return under(d, "roundtrip/services/orders") },
	},
	{
		"the domain imports no framework, driver or wire", domain, imports,
		func(d string) bool {
			return under(d, "net", "database", "os") ||
				under(d, "roundtrip") && !under(d, "roundtrip/internal/problem", "roundtrip/internal/exchange", "roundtrip/internal/failpoint", "roundtrip/internal/fingerprint") ||
				strings.Contains(d, ".") && !under(d, "golang.org/x/sync")
		},
	},
	{
		"only rest and the httpapi packages import Echo", func(p string) bool { return p != "roundtrip/internal/rest" && !named(p, "httpapi") }, imports,
		func(d string) bool { return under(d, "github.com/labstack/echo") },
	},
	{
		"the lifecycle imports no HTTP, no Prometheus and no command line", func(p string) bool { return p == "roundtrip/internal/lifecycle" }, imports,
		func(d string) bool { return strings.Contains(d, ".") || under(d, "net/http", "roundtrip") },
	},
	{
		"an app does not import the command line", func(p string) bool { return named(p, "app") }, imports,
		func(d string) bool { return under(d, "roundtrip/internal/cli", "roundtrip/internal/migration") },
	},
	{
		"a client links no server framework", calling, reached,
		func(d string) bool { return under(d, "github.com/labstack/echo", "roundtrip/internal/rest") },
	},
	{
		"HTTP depends on no other wire", ofHTTP, reached,
		func(d string) bool { return ofGRPC(d) || ofNATS(d) },
	},
	{
		"gRPC depends on no other wire", ofGRPC, reached,
		func(d string) bool { return ofHTTP(d) || ofNATS(d) },
	},
	{
		"NATS depends on no other wire", ofNATS, reached,
		func(d string) bool { return ofHTTP(d) || ofGRPC(d) },
	},
	{
		"code that the wires share depends on no wire",
		func(p string) bool {
			return domain(p) || p == ordersInventory || named(p, "payload") ||
				under(p, "roundtrip/internal/exchange", "roundtrip/internal/problem", "roundtrip/internal/strictjson", "roundtrip/internal/timestamp")
		},
		reached, ofAnyWire,
	},
	{
		"code that both services share depends on neither, and on no contract", func(p string) bool { return under(p, "roundtrip/internal") }, reached,
		func(d string) bool {
			return under(d, "roundtrip/services", "roundtrip/contracts", "roundtrip/test", "roundtrip/tools")
		},
	},
	{
		"a contract depends on no package of the tree but problem", func(p string) bool { return under(p, "roundtrip/contracts") }, reached,
		func(d string) bool {
			return under(d, "roundtrip") && !under(d, "roundtrip/contracts", "roundtrip/internal/problem")
		},
	},
	{
		"problem imports only the standard library", func(p string) bool { return p == "roundtrip/internal/problem" }, imports,
		func(d string) bool { return strings.Contains(d, ".") || under(d, "roundtrip") },
	},
	{
		"a server or a store does not import another one, a client or an app",
		func(p string) bool { return server(p) || named(p, "store") }, imports,
		func(d string) bool {
			return server(d) || named(d, "store", "app") || under(d, ordersInventory)
		},
	},
	{
		"a client does not import another one, a server, a store, an app or wires",
		func(p string) bool { return client(p) || p == ordersInventory }, imports,
		func(d string) bool { return client(d) || server(d) || named(d, "store", "app", "wires") },
	},
	{
		"only tests import a package for tests", func(p string) bool { return !under(p, "roundtrip/test") && !testPackage(p) }, imports,
		testPackage,
	},
	{
		"only tests under test/ import orderstest", func(p string) bool { return !under(p, "roundtrip/test") }, importsWithTests,
		func(d string) bool { return d == "roundtrip/services/orders/orderstest" },
	},
	{
		"a service links no test and no contract library",
		func(p string) bool { return p == "roundtrip/services/inventory" || p == "roundtrip/services/orders" }, reached,
		func(d string) bool {
			return testPackage(d) || under(d, "testing", "net/http/httptest", "pgregory.net/rapid", "github.com/getkin/kin-openapi",
				"github.com/testcontainers", "github.com/moby", "github.com/docker", "roundtrip/contracts/openapi", "roundtrip/test", "roundtrip/tools")
		},
	},
}

// look reads every folder that has packages. Go's test cache knows which files the
// test reads itself, but not which files go list reads for it.
func look(t *testing.T) {
	t.Helper()
	for _, folder := range []string{"contracts", "deploy", "internal", "run", "services", "test", "tools"} {
		err := filepath.WalkDir(folder, func(_ string, _ fs.DirEntry, err error) error { return err })
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestEveryPackageKeepsTheRules(t *testing.T) {
	t.Parallel()
	look(t)
	packages := list(t, "./...")
	for _, v := range violations(rules, packages) {
		t.Errorf("%s; but %s depends on %.300s", v.why, v.path, v.dependencies)
	}
	for _, r := range rules {
		looked := 0
		for _, p := range packages {
			if r.bound(p.ImportPath) {
				looked += len(r.dependencies(p))
			}
		}
		if looked == 0 {
			t.Errorf("no dependency was checked for the rule: %s", r.why)
		}
	}
}

// Gives each rule packages that break it. The rule must report each of them.
func TestEveryRuleReportsViolations(t *testing.T) {
	t.Parallel()
	// broken is a package with one dependency that breaks the rule.
	type broken struct{ path, dependency string }
	const (
		orders    = "roundtrip/services/orders"
		inventory = "roundtrip/services/inventory"
		stock     = inventory + "/internal/stock"
		echo      = "github.com/labstack/echo/v4"
	)
	cases := map[string][]broken{
		"the services share a contract, not code: orders":    {{orders + "/internal/order", stock}, {orders, inventory + "/app"}},
		"the services share a contract, not code: inventory": {{stock, orders + "/internal/order"}, {inventory, orders + "/app"}},
		"the domain imports no framework, driver or wire": {
			{stock, "net/http"}, {stock, "database/sql"}, {stock, "os"}, {stock, "github.com/jackc/pgx/v5"}, {stock, "roundtrip/internal/rest"},
			{stock, "roundtrip/internal/restclient"}, {stock, "roundtrip/internal/database"}, {orders + "/internal/order", orders + "/internal/store"},
		},
		"only rest and the httpapi packages import Echo": {{inventory + "/app", echo}, {"roundtrip/internal/restclient", echo}, {"roundtrip/internal/messaging", echo}},
		"the lifecycle imports no HTTP, no Prometheus and no command line": {
			{"roundtrip/internal/lifecycle", "net/http"}, {"roundtrip/internal/lifecycle", "roundtrip/internal/cli"},
		},
		"an app does not import the command line": {{orders + "/app", "roundtrip/internal/cli"}, {inventory + "/app", "roundtrip/internal/migration"}},
		"a client links no server framework": {
			{"roundtrip/internal/restclient", echo}, {ordersInventory, echo}, {ordersInventory + "/httpclient", "roundtrip/internal/rest"},
			{ordersInventory + "/wires", echo}, {"roundtrip/internal/rpc", echo}, {"roundtrip/internal/messaging", echo},
		},
		"HTTP depends on no other wire": {
			{"roundtrip/internal/rest", "roundtrip/internal/rpc"}, {"roundtrip/internal/restclient", "google.golang.org/grpc"},
			{inventory + "/internal/httpapi", "roundtrip/contracts/proto/inventory/v1"}, {ordersInventory + "/httpclient", "roundtrip/internal/messaging"},
		},
		"gRPC depends on no other wire": {
			{"roundtrip/internal/rpc", "roundtrip/internal/rest"}, {"roundtrip/contracts/proto/inventory/v1", "roundtrip/internal/restclient"},
			{inventory + "/internal/grpcapi", "roundtrip/internal/rest"}, {ordersInventory + "/grpcclient", ordersInventory + "/natsclient"},
		},
		"NATS depends on no other wire": {
			{"roundtrip/internal/messaging", "roundtrip/internal/rest"}, {inventory + "/internal/natsapi", "roundtrip/internal/rest"},
			{inventory + "/internal/natsapi", inventory + "/internal/grpcapi"}, {ordersInventory + "/natsclient", "roundtrip/internal/restclient"},
		},
		"code that the wires share depends on no wire": {
			{inventory + "/internal/payload", "roundtrip/internal/rest"}, {ordersInventory, "roundtrip/internal/restclient"},
			{"roundtrip/internal/exchange", "github.com/nats-io/nats.go"}, {stock, "roundtrip/internal/rpc"}, {"roundtrip/internal/timestamp", echo},
		},
		"code that both services share depends on neither, and on no contract": {
			{"roundtrip/internal/rpc", "roundtrip/contracts/proto/inventory/v1"}, {"roundtrip/internal/rest", stock},
			{"roundtrip/internal/rest", "roundtrip/test/support/memnet"}, {"roundtrip/internal/database", "roundtrip/tools/engine"},
		},
		"a contract depends on no package of the tree but problem": {{"roundtrip/contracts/proto/inventory/v1", "roundtrip/internal/rpc"}},
		"problem imports only the standard library":                {{"roundtrip/internal/problem", "github.com/google/uuid"}, {"roundtrip/internal/problem", "roundtrip/internal/exchange"}},
		"a server or a store does not import another one, a client or an app": {
			{inventory + "/internal/httpapi", inventory + "/internal/store"}, {inventory + "/internal/store", inventory + "/internal/natsapi"},
			{orders + "/internal/httpapi", ordersInventory}, {orders + "/internal/httpapi", orders + "/app"},
		},
		"a client does not import another one, a server, a store, an app or wires": {
			{ordersInventory + "/httpclient", ordersInventory + "/natsclient"}, {ordersInventory, ordersInventory + "/httpclient"},
			{ordersInventory + "/natsclient", orders + "/internal/store"}, {ordersInventory + "/grpcclient", ordersInventory + "/wires"},
		},
		"only tests import a package for tests":           {{orders + "/app", orders + "/orderstest"}, {ordersInventory + "/httpclient", ordersInventory + "/wiretest"}},
		"only tests under test/ import orderstest":        {{orders + "/app", orders + "/orderstest"}},
		"a service links no test and no contract library": {{orders, orders + "/orderstest"}, {inventory, "testing"}, {inventory, "roundtrip/contracts/openapi"}, {orders, "roundtrip/test/sim"}},
	}
	for _, r := range rules {
		if len(cases[r.why]) == 0 {
			t.Errorf("no case breaks the rule: %s", r.why)
		}
		for _, c := range cases[r.why] {
			found := violations([]rule{r}, made(c.path, "fmt", c.dependency))
			if want := []violation{{r.why, c.path, c.dependency}}; !slices.Equal(found, want) {
				t.Errorf("found %v, want %v", found, want)
			}
		}
		delete(cases, r.why)
	}
	for why := range cases {
		t.Errorf("there is no such rule: %s", why)
	}
}

// made returns one package that imports, and so depends on, the given ones.
func made(path string, dependencies ...string) []listed {
	return []listed{{ImportPath: path, Imports: dependencies, Deps: dependencies}}
}

// Only importsWithTests has the imports of tests, and only reached has indirect
// dependencies.
func TestRulesSelectTheirDependencies(t *testing.T) {
	t.Parallel()
	p := listed{ImportPath: "p", Imports: []string{"i"}, TestImports: []string{"t"}, XTestImports: []string{"x"}, Deps: []string{"i", "d"}}
	for _, c := range []struct {
		dependencies func(listed) []string
		want         string
	}{{imports, "[i]"}, {reached, "[i d]"}, {importsWithTests, "[i t x]"}} {
		if got := fmt.Sprint(c.dependencies(p)); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
}
