package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/template"
	"time"

	"github.com/moby/moby/client"

	"roundtrip/test/support/helm"
	"roundtrip/test/e2e/taken"
	"roundtrip/test/support/containers"
)

const (
	// root is the project's folder.
	root = "../.."
	// ours is the label of the namespaces that the tests make.
	ours = "roundtrip.tests=e2e"
	// patience is how long a test waits for what must happen, on a machine however
	// busy. Nothing is judged by it but that it happens.
	patience = 3 * time.Minute

	callerImage = "roundtrip/caller:e2e"
)

//go:embed *.yaml
var manifests embed.FS

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run runs the tests, and removes what they made, also on Ctrl-C.
func run(m *testing.M) int {
	if os.Getenv("KUBECONFIG") == "" {
		return m.Run()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() {
		<-ctx.Done()
		if err := remove(); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
		}
		os.Exit(130) // 128 + SIGINT
	}()
	status := m.Run()
	if err := errors.Join(remove(), writeSummary()); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		status = 1
	}
	return status
}

// remove removes the tests' namespaces, and the images that are theirs alone.
func remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := output(ctx, "", "kubectl", "delete", "namespaces", "--selector="+ours)
	engine, failure := client.New(client.FromEnv)
	if failure != nil {
		return errors.Join(err, failure)
	}
	defer engine.Close()
	images, failure := engine.ImageList(ctx, client.ImageListOptions{Filters: client.Filters{}.Add("reference", "roundtrip/*:e2e*")})
	err = errors.Join(err, failure)
	for _, image := range images.Items {
		for _, tag := range image.RepoTags {
			_, failure := engine.ImageRemove(ctx, tag, client.ImageRemoveOptions{})
			err = errors.Join(err, failure)
		}
	}
	return err
}

// cluster is a real one, and the tools by which tests use it.
type cluster struct {
	tools          string
	postgres, nats string
}

var prepared = sync.OnceValues(func() (*cluster, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if _, err := output(ctx, "", "kubectl", "get", "nodes"); err != nil {
		return nil, fmt.Errorf("a cluster is needed that KUBECONFIG names, and kubectl; is it there (`make kind-up`)? %w", err)
	}
	if err := remove(); err != nil { // what a killed run left
		return nil, err
	}
	tools, err := filepath.Abs(filepath.Join(root, ".tools"))
	if err != nil {
		return nil, err
	}
	c := &cluster{tools: tools}
	for _, version := range []helm.Version{helm.Three, helm.Four} {
		if _, err := os.Stat(version.Path(tools)); err != nil {
			return nil, fmt.Errorf("run `make helm` first: %w", err)
		}
	}
	engine, err := containers.Engine(ctx)
	if err != nil {
		return nil, err
	}
	defer engine.Close()
	for image, into := range map[containers.Image]*string{containers.PostgresImage: &c.postgres, containers.NATSImage: &c.nats} {
		if *into, err = image.Find(ctx, engine); err != nil {
			return nil, err
		}
	}
	if err := makeCallerImage(ctx); err != nil {
		return nil, fmt.Errorf("make the caller's image: %w", err)
	}
	// The tag is that which the charts have in a clone.
	if err := makeImages(ctx, "latest"); err != nil {
		return nil, err
	}
	return c, load(ctx, callerImage, c.postgres, c.nats)
})

// theCluster is the cluster with all images in it that tests begin with.
func theCluster(t *testing.T) *cluster {
	t.Helper()
	if os.Getenv("KUBECONFIG") == "" {
		const missing = "no cluster; set KUBECONFIG and run `make e2e`, or begin with `make kind-up`"
		if os.Getenv("CI") == "" {
			t.Skip("LEFT OUT: " + missing)
		}
		t.Fatal(missing)
	}
	c, err := prepared()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// makeImages makes the pair's images with a tag, and puts them into the cluster.
func makeImages(ctx context.Context, tag string, options ...string) error {
	began := time.Now()
	args := append([]string{"run", "./deploy/image", "--here", "--load", "--tag", tag, "--out", ".build/e2e-images"}, options...)
	command := exec.CommandContext(ctx, "go", args...)
	command.Dir = root
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("make the pair's images: %w\n%s", err, out)
	}
	if err := load(ctx, "roundtrip/inventory:"+tag, "roundtrip/orders:"+tag); err != nil {
		return err
	}
	note("images "+tag, time.Since(began), taken.Taken{})
	return nil
}

// load puts images of the engine's into the cluster.
func load(ctx context.Context, images ...string) error {
	command := os.Getenv("IMAGE_LOAD")
	if command == "" {
		return nil
	}
	shell := exec.CommandContext(ctx, "sh", "-c", command+` "$@"`, "IMAGE_LOAD")
	shell.Args, shell.Dir = append(shell.Args, images...), root
	if out, err := shell.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", command, strings.Join(images, " "), err, out)
	}
	return nil
}

// makeCallerImage makes an image of nothing but the caller.
func makeCallerImage(ctx context.Context) error {
	folder, err := os.MkdirTemp("", "roundtrip-caller-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	binary := filepath.Join(folder, "caller")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, "./caller")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+runtime.GOARCH)
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "caller", Mode: 0o555, Size: int64(len(content))})
	if err == nil {
		_, err = w.Write(content)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	engine, err := client.New(client.FromEnv)
	if err != nil {
		return err
	}
	defer engine.Close()
	result, err := engine.ImageImport(ctx, client.ImageImportSource{Source: &archive, SourceName: "-"}, callerImage,
		client.ImageImportOptions{Changes: []string{`USER 65532:65532`, `ENTRYPOINT ["/caller"]`}})
	if err != nil {
		return err
	}
	defer result.Close()
	_, err = io.Copy(io.Discard, result)
	return err
}

// output runs a program, and returns what it printed; the error has what it
// complained about.
func output(ctx context.Context, stdin, name string, args ...string) (string, error) {
	command := exec.CommandContext(ctx, name, args...)
	command.Stdin, command.Dir = strings.NewReader(stdin), root
	var out, complaints bytes.Buffer
	command.Stdout, command.Stderr = &out, &complaints
	if err := command.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w\n%s%s", filepath.Base(name), strings.Join(args, " "), err, out.String(), complaints.String())
	}
	return out.String(), nil
}

// namespace is one of the test's own, and the Helm that is used in it.
type namespace struct {
	*testing.T
	*cluster
	name string
	by   helm.Version
}

// namespace makes a namespace that enforces a level of Pod Security.
func (c *cluster) namespace(t *testing.T, name, level string) *namespace {
	t.Helper()
	n := &namespace{t, c, "roundtrip-e2e-" + name, helm.Four}
	label, value, _ := strings.Cut(ours, "=")
	n.apply(fmt.Sprintf(`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":%q,"labels":{%q:%q,"pod-security.kubernetes.io/enforce":%q}}}`, n.name, label, value, level))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		if t.Failed() {
			for _, args := range [][]string{{"get", "pods", "--output=wide"}, {"events"}, {"logs", "--selector=app.kubernetes.io/part-of=roundtrip", "--all-containers", "--prefix", "--tail=20"}} {
				out, err := output(ctx, "", "kubectl", append([]string{"--namespace=" + n.name}, args...)...)
				t.Log(n.name, args, out, err)
			}
		}
		// The end of the tests waits for that of all.
		if _, err := output(ctx, "", "kubectl", "delete", "namespace", n.name, "--wait=false"); err != nil {
			t.Error(err)
		}
	})
	return n
}

// try runs kubectl in the namespace.
func (n *namespace) try(args ...string) (string, error) {
	return output(n.Context(), "", "kubectl", append([]string{"--namespace=" + n.name}, args...)...)
}

func (n *namespace) kubectl(args ...string) string {
	n.Helper()
	out, err := n.try(args...)
	if err != nil {
		n.Fatal(err)
	}
	return out
}

func (n *namespace) apply(manifest string) {
	n.Helper()
	if _, err := output(n.Context(), manifest, "kubectl", "--namespace="+n.name, "apply", "--filename=-"); err != nil {
		n.Fatal(err)
	}
}

// tryHelm runs Helm in the namespace.
func (n *namespace) tryHelm(args ...string) (string, error) {
	return output(n.Context(), "", n.by.Path(n.tools), append([]string{"--namespace=" + n.name}, args...)...)
}

func (n *namespace) helm(args ...string) string {
	n.Helper()
	out, err := n.tryHelm(args...)
	if err != nil {
		n.Fatal(err)
	}
	return out
}

// manifest fills in a template of a manifest.
func (n *namespace) manifest(name string, data any) string {
	n.Helper()
	var text bytes.Buffer
	if err := template.Must(template.ParseFS(manifests, name)).Execute(&text, data); err != nil {
		n.Fatal(err)
	}
	return text.String()
}

// caller starts the pod from which requests are made.
func (n *namespace) caller(args ...string) {
	n.Helper()
	list, err := json.Marshal(args)
	if err != nil {
		n.Fatal(err)
	}
	n.apply(n.manifest("caller.yaml", map[string]string{"Image": callerImage, "Args": string(list)}))
	n.kubectl("wait", "--for=condition=Ready", "pod/caller", "--timeout=2m")
}

// call makes a request from inside, and returns the status and the answer's text.
func (n *namespace) call(method, url string, body ...string) (string, error) {
	return n.try(append([]string{"exec", "caller", "--", "/caller", "call", method, url}, body...)...)
}

// must makes a request that must be answered so.
func (n *namespace) must(begins, method, url string, body ...string) string {
	n.Helper()
	out, err := n.call(method, url, body...)
	if err != nil || !strings.HasPrefix(out, begins) {
		n.Fatalf("%s %s was to be answered %q: %s %v", method, url, begins, out, err)
	}
	return out
}

// until waits for a condition.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for !condition() {
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("it never came to be that %s", what)
		}
	}
}
