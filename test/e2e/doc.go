// Package e2e tests the charts on a real cluster, as users meet them: by helm,
// kubectl and requests from inside. `make e2e` runs it against whatever cluster
// KUBECONFIG names; without one its tests are skipped.
//
// IMAGE_LOAD is a command that puts images of the local engine, its arguments,
// into that cluster; where it is empty the cluster is to have what the engine has.
// All that the tests make is in namespaces that they remove, also on Ctrl-C.
package e2e
