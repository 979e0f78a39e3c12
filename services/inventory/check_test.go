package main

import "testing"

// That the other wires are asked is tried in test/charts, on real processes.
func TestTheCheckNamesTheWireThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	url := serving(t)
	empty := levels(t, url)
	exit, out := command(t, "", "check", "--url="+url+"/")
	want(t, "a check", exit, out, 0, "http: GetStock by "+url+"/ is answered")
	exit, out = command(t, "", "check", "--within=0s", "--url="+url, "--grpc-target=dns:///127.0.0.1:1", "--nats-url=nats://127.0.0.1:1")
	want(t, "a check of what is not there", exit, out, 1, "http: GetStock by "+url+" is answered", "grpc: GetStock by dns:///127.0.0.1:1", "nats: GetStock by nats://127.0.0.1:1")
	exit, out = command(t, "", "check", "--within=0s", "--url="+url+"/nowhere")
	want(t, "a check of somebody else", exit, out, 1, "not-found")
	if got := levels(t, url); got != empty {
		t.Errorf("a check leaves %s", got)
	}
}
