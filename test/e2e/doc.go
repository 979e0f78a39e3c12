// Package e2e tests the charts on a real cluster, as users use them: with helm,
// kubectl and requests from inside. `make e2e` runs it on the cluster of KUBECONFIG.
// Without KUBECONFIG the tests are skipped.
//
// IMAGE_LOAD is a command that loads images of the local engine into the cluster.
// Its arguments are the images. Without it the cluster must share the engine's
// images. The tests remove the namespaces that they make, also on Ctrl-C.
package e2e
