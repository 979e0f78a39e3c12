package main

import "testing"

// test/charts checks the other wires, on real processes.
func TestCheckNamesTheWireThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	url := serving(t)
	empty := levels(t, url)
	exit, out := command(t, "", "check", "--url="+url+"/")
	want(t, "a check", exit, out, 0, "http: GetStock from "+url+"/ succeeded")
	exit, out = command(t, "", "check", "--within=0s", "--url="+url, "--grpc-target=dns:///127.0.0.1:1", "--nats-url=nats://127.0.0.1:1")
	want(t, "a check of servers that do not exist", exit, out, 1, "http: GetStock from "+url+" succeeded", "grpc: GetStock from dns:///127.0.0.1:1", "nats: GetStock from nats://127.0.0.1:1")
	exit, out = command(t, "", "check", "--within=0s", "--url="+url+"/nowhere")
	want(t, "a check of another server", exit, out, 1, "not-found")
	if got := levels(t, url); got != empty {
		t.Errorf("after the checks the levels are %s", got)
	}
}
