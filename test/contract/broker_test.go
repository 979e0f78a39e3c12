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
)

// brokerRun is who asks a Pact Broker for pacts.
type brokerRun struct{ url, token, version, branch string }

// verifyBrokers verifies what a Pact Broker has for inventory, and publishes the
// results: the pacts of orders' main branch and of what is deployed anywhere, and
// as pending, which can't fail, those that inventory has never fulfilled.
func (s *providerSide) verifyBrokers(t *testing.T, b brokerRun) (err error) {
	t.Helper()
	request, asked := s.request(t, nil)
	request.BrokerURL, request.BrokerToken = b.url, b.token
	request.ProviderVersion, request.ProviderBranch, request.PublishVerificationResults = b.version, b.branch, true
	request.ConsumerVersionSelectors = []provider.Selector{
		&provider.ConsumerVersionSelector{MainBranch: true}, &provider.ConsumerVersionSelector{DeployedOrReleased: true},
		&provider.ConsumerVersionSelector{MatchingBranch: true},
	}
	request.EnablePending = true
	request.BuildURL = os.Getenv("PACT_BUILD_URL")
	said := quietly(t, func() { err = provider.NewVerifier().VerifyProvider(t, request) })
	switch {
	case err == nil && asked() == 0:
		err = errors.New("inventory was not asked anything")
	case err == nil && strings.Contains(said, "Publishing of verification results failed"): // which Pact lets pass
		err = errors.New("the results could not be published")
	}
	if err != nil {
		return fmt.Errorf("%w\n%s", err, said)
	}
	return nil
}

// TestInventoryAnswersAsTheBrokersPactsSay asks the Pact Broker that the
// environment names (make contract-verify), or else a stand-in.
func TestInventoryAnswersAsTheBrokersPactsSay(t *testing.T) {
	s := startProvider(t)
	if url := os.Getenv("PACT_BROKER_BASE_URL"); url != "" {
		err := s.verifyBrokers(t, brokerRun{url, os.Getenv("PACT_BROKER_TOKEN"), os.Getenv("PACT_PROVIDER_VERSION"), os.Getenv("PACT_PROVIDER_BRANCH")})
		if err != nil {
			t.Error(err)
		}
		return
	}
	stand := startStandIn(t)
	p, err := readPact(committed)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.letHoldsRunOut(p); err != nil {
		t.Fatal(err)
	}
	if err := s.verifyBrokers(t, brokerRun{stand.url, "secret", "c0ffee", "a-branch"}); err != nil {
		t.Fatal(err)
	}
	var ask struct {
		Selectors []struct{ MainBranch, DeployedOrReleased, MatchingBranch bool } `json:"consumerVersionSelectors"`
		Pending   bool                                                            `json:"includePendingStatus"`
		Branch    string                                                          `json:"providerVersionBranch"`
	}
	stand.body(t, "POST /pacts/provider/inventory/for-verification", &ask)
	if len(ask.Selectors) != 3 || !ask.Selectors[0].MainBranch || !ask.Selectors[1].DeployedOrReleased || !ask.Selectors[2].MatchingBranch || !ask.Pending || ask.Branch != "a-branch" {
		t.Errorf("it asked for %+v", ask)
	}
	var result struct {
		Success bool
		Version string `json:"providerApplicationVersion"`
	}
	stand.body(t, "POST /results", &result)
	if !result.Success || result.Version != "c0ffee" {
		t.Errorf("it published %+v", result)
	}
	stand.find(t, "PUT /pacticipants/inventory/branches/a-branch/versions/c0ffee")
}

// standIn is as much of a Pact Broker as shows what is sent to one.
type standIn struct {
	url string

	mu       sync.Mutex
	requests []sent
}

type sent struct{ line, authorization, body string }

func startStandIn(t *testing.T) *standIn {
	t.Helper()
	s := new(standIn)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		s.mu.Lock()
		s.requests = append(s.requests, sent{r.Method + " " + r.URL.RequestURI(), r.Header.Get("Authorization"), string(body)})
		s.mu.Unlock()
		s.answer(t, w, r)
	}))
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// answer answers in HAL, as little as Pact's clients need.
func (s *standIn) answer(t *testing.T, w http.ResponseWriter, r *http.Request) {
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

// find is the one request that begins with a line.
func (s *standIn) find(t *testing.T, line string) sent {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	n := slices.IndexFunc(s.requests, func(r sent) bool { return strings.HasPrefix(r.line, line) })
	if n < 0 {
		t.Fatalf("nobody asked %s: %v", line, s.requests)
	}
	if s.requests[n].authorization != "Bearer secret" {
		t.Errorf("%s: the authorization is %q", line, s.requests[n].authorization)
	}
	return s.requests[n]
}

func (s *standIn) body(t *testing.T, line string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(s.find(t, line).body), into); err != nil {
		t.Fatal(err)
	}
}

// The commands for a Pact Broker, as far as what they send to one.
func TestMakeTellsTheBrokerWhatItHasTo(t *testing.T) {
	stand := startStandIn(t)
	run := func(name string, args ...string) string {
		t.Helper()
		command := exec.CommandContext(t.Context(), name, args...)
		command.Dir = "../.."
		command.Env = append(os.Environ(), "PACT_BROKER_BASE_URL="+stand.url, "PACT_BROKER_TOKEN=secret")
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
	stand.body(t, "POST /contracts/publish", &published)
	if published.PacticipantName != Consumer || published.PacticipantVersionNumber != commit || published.Branch != "a-branch" ||
		len(published.Contracts) != 1 || published.Contracts[0].ProviderName != Provider {
		t.Errorf("it published %+v", published)
	}

	run("make", "can-i-deploy", "SERVICE=inventory", "ENV=production")
	asked := stand.find(t, "GET /matrix").line
	for _, part := range []string{"inventory", commit, "environment=production"} {
		if !strings.Contains(asked, part) {
			t.Errorf("it asked %s, without %s", asked, part)
		}
	}

	run("make", "record-deployment", "SERVICE=orders", "ENV=production")
	stand.find(t, "GET /pacticipants/orders/versions/"+commit)
	stand.find(t, "POST /deployments")
}
