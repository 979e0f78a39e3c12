//go:build contract

package contract

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pact-foundation/pact-go/v2/provider"

	"roundtrip/test/support/testcache"
)

// brokerOptions say how to reach a Pact Broker, and what to publish.
type brokerOptions struct{ url, token, version, branch string }

// verifyBrokerPacts verifies the pacts that a Pact Broker has for inventory and
// publishes the results: the pacts of orders' main branch and of every deployed
// version. Pacts that inventory has never fulfilled are pending and can't fail.
func (s *providerTest) verifyBrokerPacts(t *testing.T, b brokerOptions) (err error) {
	t.Helper()
	request, count := s.request(t, nil)
	request.BrokerURL, request.BrokerToken = b.url, b.token
	request.ProviderVersion, request.ProviderBranch, request.PublishVerificationResults = b.version, b.branch, true
	request.ConsumerVersionSelectors = []provider.Selector{
		&provider.ConsumerVersionSelector{MainBranch: true}, &provider.ConsumerVersionSelector{DeployedOrReleased: true},
		&provider.ConsumerVersionSelector{MatchingBranch: true},
	}
	request.EnablePending = true
	request.BuildURL = os.Getenv("PACT_BUILD_URL")
	output := quietly(t, func() { err = provider.NewVerifier().VerifyProvider(t, request) })
	switch {
	case err == nil && count() == 0:
		err = errors.New("inventory got no request")
	case err == nil && strings.Contains(output, "Publishing of verification results failed"): // Pact reports no error
		err = errors.New("publish the results")
	}
	if err != nil {
		return fmt.Errorf("%w\n%s", err, output)
	}
	return nil
}

// TestInventoryAnswersAsTheBrokersPactsSay uses the Pact Broker that the
// environment names (make contract-verify), or else a fake.
func TestInventoryAnswersAsTheBrokersPactsSay(t *testing.T) {
	s := startProvider(t)
	if url := os.Getenv("PACT_BROKER_BASE_URL"); url != "" {
		err := s.verifyBrokerPacts(t, brokerOptions{url, os.Getenv("PACT_BROKER_TOKEN"), os.Getenv("PACT_PROVIDER_VERSION"), os.Getenv("PACT_PROVIDER_BRANCH")})
		if err != nil {
			t.Error(err)
		}
		return
	}
	broker := startFakeBroker(t)
	p, err := readPact(committed)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.expireHolds(p); err != nil {
		t.Fatal(err)
	}
	if err := s.verifyBrokerPacts(t, brokerOptions{broker.url, "secret", "c0ffee", "a-branch"}); err != nil {
		t.Fatal(err)
	}
	var query struct {
		Selectors []struct{ MainBranch, DeployedOrReleased, MatchingBranch bool } `json:"consumerVersionSelectors"`
		Pending   bool                                                            `json:"includePendingStatus"`
		Branch    string                                                          `json:"providerVersionBranch"`
	}
	broker.body(t, "POST /pacts/provider/inventory/for-verification", &query)
	if len(query.Selectors) != 3 || !query.Selectors[0].MainBranch || !query.Selectors[1].DeployedOrReleased || !query.Selectors[2].MatchingBranch || !query.Pending || query.Branch != "a-branch" {
		t.Errorf("the verifier asked for %+v", query)
	}
	var result struct {
		Success bool
		Version string `json:"providerApplicationVersion"`
	}
	broker.body(t, "POST /results", &result)
	if !result.Success || result.Version != "c0ffee" {
		t.Errorf("published %+v", result)
	}
	broker.find(t, "PUT /pacticipants/inventory/branches/a-branch/versions/c0ffee")
}

// fakeBroker is a fake Pact Broker that records requests.
type fakeBroker struct {
	url string

	mu       sync.Mutex
	requests []recorded
}

type recorded struct{ line, authorization, body string }

func startFakeBroker(t *testing.T) *fakeBroker {
	t.Helper()
	s := new(fakeBroker)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		s.mu.Lock()
		s.requests = append(s.requests, recorded{r.Method + " " + r.URL.RequestURI(), r.Header.Get("Authorization"), string(body)})
		s.mu.Unlock()
		s.answer(t, w, r)
	}))
	s.url = "http://" + server.Listener.Addr().String() // before the first request reads it
	server.Start()
	t.Cleanup(server.Close)
	return s
}

// answer responds in HAL, with only the parts that Pact's clients need.
func (s *fakeBroker) answer(t *testing.T, w http.ResponseWriter, r *http.Request) {
	link := func(path string) object { return object{"href": s.url + path} }
	template := func(path string) object { return object{"href": s.url + path, "templated": true} }
	var body any
	switch path := r.URL.Path; {
	case path == "/pact":
		text, err := os.ReadFile(committed)
		if err != nil {
			t.Error(err)
		}
		var pact object
		if err := json.Unmarshal(text, &pact); err != nil {
			t.Error(err)
		}
		pact["_links"] = object{"self": link("/pact"), "pb:publish-verification-results": link("/results"), "pb:provider": link("/pacticipants/inventory")}
		body = pact
	case strings.HasSuffix(path, "/for-verification"):
		body = object{"_links": object{"self": link(path)}, "_embedded": object{"pacts": []any{object{
			"shortDescription": "latest", "verificationProperties": object{"pending": false, "notices": []any{}},
			"_links": object{"self": object{"href": s.url + "/pact", "name": "the pact of orders"}},
		}}}}
	case path == "/matrix":
		body = object{"summary": object{"deployable": true, "reason": "all is verified", "success": 1, "failed": 0, "unknown": 0},
			"notices": []any{object{"type": "success", "text": "all is verified"}}, "matrix": []any{}}
	case strings.HasPrefix(path, "/pacticipants/"):
		body = object{"number": "x", "_links": object{"self": link(path),
			"pb:branch-version":    template("/pacticipants/inventory/branches/{branch}/versions/{version}"),
			"pb:record-deployment": []any{object{"name": "production", "href": s.url + "/deployments"}},
		}}
	default:
		body = object{"_links": object{
			"self": link("/"), "pb:publish-contracts": link("/contracts/publish"), "pb:environments": link("/environments"),
			"pb:provider-pacts-for-verification": template("/pacts/provider/{provider}/for-verification"),
			"pb:pacticipant":                     template("/pacticipants/{pacticipant}"),
			"pb:pacticipant-version":             template("/pacticipants/{pacticipant}/versions/{version}"),
			"pb:pacticipant-branch-version":      template("/pacticipants/{pacticipant}/branches/{branch}/versions/{version}"),
		}, "logs": []any{}, "notices": []any{}}
	}
	w.Header().Set("Content-Type", "application/hal+json")
	if r.Method == http.MethodPost && !strings.HasSuffix(r.URL.Path, "/for-verification") {
		w.WriteHeader(http.StatusCreated)
	}
	if _, err := w.Write(encode(body)); err != nil {
		t.Error(err)
	}
}

// find returns the first request whose line has the prefix.
func (s *fakeBroker) find(t *testing.T, line string) recorded {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	n := slices.IndexFunc(s.requests, func(r recorded) bool { return strings.HasPrefix(r.line, line) })
	if n < 0 {
		t.Fatalf("no request %s in %v", line, s.requests)
	}
	if s.requests[n].authorization != "Bearer secret" {
		t.Errorf("%s: authorization %q", line, s.requests[n].authorization)
	}
	return s.requests[n]
}

func (s *fakeBroker) body(t *testing.T, line string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(s.find(t, line).body), into); err != nil {
		t.Fatal(err)
	}
}

// The make targets for a Pact Broker send it the right requests.
func TestMakeBrokerCommands(t *testing.T) {
	testcache.Watch(t, "../../Makefile", "../../tools")
	broker := startFakeBroker(t)
	run := func(name string, args ...string) string {
		t.Helper()
		command := exec.CommandContext(t.Context(), name, args...)
		command.Dir = "../.."
		command.Env = append(os.Environ(), "PACT_BROKER_BASE_URL="+broker.url, "PACT_BROKER_TOKEN=secret")
		out, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	commit := run("git", "rev-parse", "HEAD")

	run("make", "contract-publish", "BRANCH=a-branch")
	var published struct {
		Branch, PacticipantName, PacticipantVersionNumber string
		Contracts                                         []struct{ ConsumerName, ProviderName string }
	}
	broker.body(t, "POST /contracts/publish", &published)
	if published.PacticipantName != Consumer || published.PacticipantVersionNumber != commit || published.Branch != "a-branch" ||
		len(published.Contracts) != 1 || published.Contracts[0].ProviderName != Provider {
		t.Errorf("published %+v", published)
	}

	run("make", "can-i-deploy", "SERVICE=inventory", "ENV=production")
	query := broker.find(t, "GET /matrix").line
	for _, part := range []string{"inventory", commit, "environment=production"} {
		if !strings.Contains(query, part) {
			t.Errorf("can-i-deploy sent %s, without %s", query, part)
		}
	}

	run("make", "record-deployment", "SERVICE=orders", "ENV=production")
	broker.find(t, "GET /pacticipants/orders/versions/"+commit)
	broker.find(t, "POST /deployments")
}
