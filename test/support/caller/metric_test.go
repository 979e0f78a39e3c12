package caller

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestMetric(t *testing.T) {
	t.Parallel()
	for metrics, want := range map[string]float64{
		"# HELP orders_intents_unsettled Intents.\norders_intents_unsettled 3\nother 7\n": 3,
		"orders_intents_unsettled 0\n":                                             0,
		"orders_intents_unsettled{a=\"b\"} 1\norders_intents_unsettled{a=\"c\"} 2": 3,
		"# orders_intents_unsettled 3":                                             -1,
		"":                                                                         -1,
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(metrics)) }))
		got, err := Metric(t.Context(), server.URL, "orders_intents_unsettled")
		server.Close()
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q: got %g, %v", metrics, got, err)
		}
	}
}
