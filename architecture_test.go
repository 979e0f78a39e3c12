// Package roundtrip_test holds the rules that the tree itself must keep.
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
	// bound tells which packages keep the rule.
	bound func(path string) bool
	// dependencies of a package are what the rule looks at.
	dependencies func(listed) []string
	forbidden    func(path string) bool
}

// imports are what a package names itself, without its tests.
func imports(p listed) []string { return p.Imports }

// reached is what a package depends on, also indirectly, without its tests.
func reached(p listed) []string { return p.Deps }

// importsWithTests are what a package and its tests name themselves.
func importsWithTests(p listed) []string {
	return slices.Concat(p.Imports, p.TestImports, p.XTestImports)
}

// violation is a package that breaks a rule, by some dependencies.
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

// The packages of each wire, and its library.
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

// testPackage tells whether a package of the tree is for tests, as net/http/httptest is.
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
		"the domain knows no framework, driver or wire", domain, imports,
		func(d string) bool {
			return under(d, "net", "database", "os") ||
				under(d, "roundtrip") && !under(d, "roundtrip/internal/problem", "roundtrip/internal/exchange", "roundtrip/internal/failpoint", "roundtrip/internal/fingerprint") ||
				strings.Contains(d, ".") && !under(d, "golang.org/x/sync")
		},
	},
	{
		"Echo is for rest and the httpapi packages", func(p string) bool { return p != "roundtrip/internal/rest" && !named(p, "httpapi") }, imports,
		func(d string) bool { return under(d, "github.com/labstack/echo") },
	},
	{
		"the lifecycle knows neither HTTP, nor Prometheus, nor the command line", func(p string) bool { return p == "roundtrip/internal/lifecycle" }, imports,
		func(d string) bool { return strings.Contains(d, ".") || under(d, "net/http", "roundtrip") },
	},
	{
		"an app does not know the command line", func(p string) bool { return named(p, "app") }, imports,
		func(d string) bool { return under(d, "roundtrip/internal/cli", "roundtrip/internal/migration") },
	},
	{
		"a client links no server framework", calling, reached,
		func(d string) bool { return under(d, "github.com/labstack/echo", "roundtrip/internal/rest") },
	},
	{
		"HTTP reaches no other wire", ofHTTP, reached,
		func(d string) bool { return ofGRPC(d) || ofNATS(d) },
	},
	{
		"gRPC reaches no other wire", ofGRPC, reached,
		func(d string) bool { return ofHTTP(d) || ofNATS(d) },
	},
	{
		"NATS reaches no other wire", ofNATS, reached,
		func(d string) bool { return ofHTTP(d) || ofGRPC(d) },
	},
	{
		"what the wires share reaches none of them",
		func(p string) bool {
			return domain(p) || p == ordersInventory || named(p, "payload") ||
				under(p, "roundtrip/internal/exchange", "roundtrip/internal/problem", "roundtrip/internal/strictjson", "roundtrip/internal/timestamp")
		},
		reached, ofAnyWire,
	},
	{
		"what both services share knows neither, and no contract", func(p string) bool { return under(p, "roundtrip/internal") }, reached,
		func(d string) bool {
			return under(d, "roundtrip/services", "roundtrip/contracts", "roundtrip/test", "roundtrip/tools")
		},
	},
	{
		"a contract knows problems, and nothing else of the tree", func(p string) bool { return under(p, "roundtrip/contracts") }, reached,
		func(d string) bool {
			return under(d, "roundtrip") && !under(d, "roundtrip/contracts", "roundtrip/internal/problem")
		},
	},
	{
		"problem is the standard library's", func(p string) bool { return p == "roundtrip/internal/problem" }, imports,
		func(d string) bool { return strings.Contains(d, ".") || under(d, "roundtrip") },
	},
	{
		"a server or a store does not know another, a client, or how they are put together",
		func(p string) bool { return server(p) || named(p, "store") }, imports,
		func(d string) bool {
			return server(d) || named(d, "store", "app") || under(d, ordersInventory)
		},
	},
	{
		"a client does not know another, a server, a store, or how they are put together",
		func(p string) bool { return client(p) || p == ordersInventory }, imports,
		func(d string) bool { return client(d) || server(d) || named(d, "store", "app", "wires") },
	},
	{
		"a package for tests is imported by tests alone", func(p string) bool { return !under(p, "roundtrip/test") && !testPackage(p) }, imports,
		testPackage,
	},
	{
		"orderstest is for the tests under test/", func(p string) bool { return !under(p, "roundtrip/test") }, importsWithTests,
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

// look reads every folder of packages. Go's test cache knows what a test itself
// reads, but not what go list reads for it.
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
			t.Errorf("no dependency is looked at for: %s", r.why)
		}
	}
}

// Each rule is given packages that break it, and has to report every one.
func TestEveryRuleIsSeenToFail(t *testing.T) {
	t.Parallel()
	// broken is a package, and its one dependency that breaks the rule.
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
		"the domain knows no framework, driver or wire": {
			{stock, "net/http"}, {stock, "database/sql"}, {stock, "os"}, {stock, "github.com/jackc/pgx/v5"}, {stock, "roundtrip/internal/rest"},
			{stock, "roundtrip/internal/restclient"}, {stock, "roundtrip/internal/database"}, {orders + "/internal/order", orders + "/internal/store"},
		},
		"Echo is for rest and the httpapi packages": {{inventory + "/app", echo}, {"roundtrip/internal/restclient", echo}, {"roundtrip/internal/messaging", echo}},
		"the lifecycle knows neither HTTP, nor Prometheus, nor the command line": {
			{"roundtrip/internal/lifecycle", "net/http"}, {"roundtrip/internal/lifecycle", "roundtrip/internal/cli"},
		},
		"an app does not know the command line": {{orders + "/app", "roundtrip/internal/cli"}, {inventory + "/app", "roundtrip/internal/migration"}},
		"a client links no server framework": {
			{"roundtrip/internal/restclient", echo}, {ordersInventory, echo}, {ordersInventory + "/httpclient", "roundtrip/internal/rest"},
			{ordersInventory + "/wires", echo}, {"roundtrip/internal/rpc", echo}, {"roundtrip/internal/messaging", echo},
		},
		"HTTP reaches no other wire": {
			{"roundtrip/internal/rest", "roundtrip/internal/rpc"}, {"roundtrip/internal/restclient", "google.golang.org/grpc"},
			{inventory + "/internal/httpapi", "roundtrip/contracts/proto/inventory/v1"}, {ordersInventory + "/httpclient", "roundtrip/internal/messaging"},
		},
		"gRPC reaches no other wire": {
			{"roundtrip/internal/rpc", "roundtrip/internal/rest"}, {"roundtrip/contracts/proto/inventory/v1", "roundtrip/internal/restclient"},
			{inventory + "/internal/grpcapi", "roundtrip/internal/rest"}, {ordersInventory + "/grpcclient", ordersInventory + "/natsclient"},
		},
		"NATS reaches no other wire": {
			{"roundtrip/internal/messaging", "roundtrip/internal/rest"}, {inventory + "/internal/natsapi", "roundtrip/internal/rest"},
			{inventory + "/internal/natsapi", inventory + "/internal/grpcapi"}, {ordersInventory + "/natsclient", "roundtrip/internal/restclient"},
		},
		"what the wires share reaches none of them": {
			{inventory + "/internal/payload", "roundtrip/internal/rest"}, {ordersInventory, "roundtrip/internal/restclient"},
			{"roundtrip/internal/exchange", "github.com/nats-io/nats.go"}, {stock, "roundtrip/internal/rpc"}, {"roundtrip/internal/timestamp", echo},
		},
		"what both services share knows neither, and no contract": {
			{"roundtrip/internal/rpc", "roundtrip/contracts/proto/inventory/v1"}, {"roundtrip/internal/rest", stock},
			{"roundtrip/internal/rest", "roundtrip/test/support/memnet"}, {"roundtrip/internal/database", "roundtrip/tools/engine"},
		},
		"a contract knows problems, and nothing else of the tree": {{"roundtrip/contracts/proto/inventory/v1", "roundtrip/internal/rpc"}},
		"problem is the standard library's":                       {{"roundtrip/internal/problem", "github.com/google/uuid"}, {"roundtrip/internal/problem", "roundtrip/internal/exchange"}},
		"a server or a store does not know another, a client, or how they are put together": {
			{inventory + "/internal/httpapi", inventory + "/internal/store"}, {inventory + "/internal/store", inventory + "/internal/natsapi"},
			{orders + "/internal/httpapi", ordersInventory}, {orders + "/internal/httpapi", orders + "/app"},
		},
		"a client does not know another, a server, a store, or how they are put together": {
			{ordersInventory + "/httpclient", ordersInventory + "/natsclient"}, {ordersInventory, ordersInventory + "/httpclient"},
			{ordersInventory + "/natsclient", orders + "/internal/store"}, {ordersInventory + "/grpcclient", ordersInventory + "/wires"},
		},
		"a package for tests is imported by tests alone":  {{orders + "/app", orders + "/orderstest"}, {ordersInventory + "/httpclient", ordersInventory + "/wiretest"}},
		"orderstest is for the tests under test/":         {{orders + "/app", orders + "/orderstest"}},
		"a service links no test and no contract library": {{orders, orders + "/orderstest"}, {inventory, "testing"}, {inventory, "roundtrip/contracts/openapi"}, {orders, "roundtrip/test/sim"}},
	}
	for _, r := range rules {
		if len(cases[r.why]) == 0 {
			t.Errorf("nothing breaks the rule: %s", r.why)
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

// made is a package that imports, and so reaches, these.
func made(path string, dependencies ...string) []listed {
	return []listed{{ImportPath: path, Imports: dependencies, Deps: dependencies}}
}

// A rule sees the dependencies that it is about: those of tests, and the indirect ones.
func TestARuleLooksAtItsDependenciesAlone(t *testing.T) {
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
