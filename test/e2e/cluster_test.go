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

	"roundtrip/test/e2e/loadstats"
	"roundtrip/test/support/containers"
	"roundtrip/test/support/helm"
	"roundtrip/test/support/wait"
)

const (
	// root is the project's folder.
	root = "../.."
	// namespaceLabel is the label of the tests' namespaces.
	namespaceLabel = "roundtrip.tests=e2e"
	// limit is how long a test waits for a condition on a busy machine.
	limit = 3 * time.Minute

	callerImage = "roundtrip/caller:e2e"
)

//go:embed *.yaml
var manifests embed.FS

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run runs the tests and cleans up, also on Ctrl-C.
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

// remove removes the tests' namespaces and images.
func remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	_, err := output(ctx, "", "kubectl", "delete", "namespaces", "--selector="+namespaceLabel)
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

// cluster is a real cluster, and the tools and images that tests use.
type cluster struct {
	tools          string
	postgres, nats string
}

var prepare = sync.OnceValues(func() (*cluster, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if _, err := output(ctx, "", "kubectl", "get", "nodes"); err != nil {
		return nil, fmt.Errorf("KUBECONFIG must name a running cluster, and kubectl is needed (see `make kind-up`): %w", err)
	}
	if err := remove(); err != nil { // a killed run may have left some
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
	// The charts in a clone have this tag.
	if err := makeImages(ctx, "latest"); err != nil {
		return nil, err
	}
	return c, load(ctx, callerImage, c.postgres, c.nats)
})

// theCluster returns the cluster, with the images loaded. Without one it skips the test.
func theCluster(t *testing.T) *cluster {
	t.Helper()
	if os.Getenv("KUBECONFIG") == "" {
		const missing = "no cluster; set KUBECONFIG and run `make e2e`, or start with `make kind-up`"
		if os.Getenv("CI") == "" {
			t.Skip("LEFT OUT: " + missing)
		}
		t.Fatal(missing)
	}
	c, err := prepare()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// makeImages builds both services' images with a tag and loads them into the cluster.
func makeImages(ctx context.Context, tag string, options ...string) error {
	began := time.Now()
	args := append([]string{"run", "./deploy/image", "--here", "--load", "--tag", tag, "--out", ".build/e2e-images"}, options...)
	command := exec.CommandContext(ctx, "go", args...)
	command.Dir = root
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("build the services' images: %w\n%s", err, out)
	}
	if err := load(ctx, "roundtrip/inventory:"+tag, "roundtrip/orders:"+tag); err != nil {
		return err
	}
	recordStep("images "+tag, time.Since(began), loadstats.Stats{})
	return nil
}

// load loads images of the engine into the cluster.
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

// makeCallerImage makes an image with only the caller.
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

// output runs a program and returns its output. An error has its stderr.
func output(ctx context.Context, stdin, name string, args ...string) (string, error) {
	command := exec.CommandContext(ctx, name, args...)
	command.Stdin, command.Dir = strings.NewReader(stdin), root
	var out, stderr bytes.Buffer
	command.Stdout, command.Stderr = &out, &stderr
	if err := command.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w\n%s%s", filepath.Base(name), strings.Join(args, " "), err, out.String(), stderr.String())
	}
	return out.String(), nil
}

// namespace is a namespace of a test, and the Helm version to use in it.
type namespace struct {
	*testing.T
	*cluster
	name string
	by   helm.Version
}

// namespace makes a namespace with a level of Pod Security.
func (c *cluster) namespace(t *testing.T, name, level string) *namespace {
	t.Helper()
	n := &namespace{t, c, "roundtrip-e2e-" + name, helm.Four}
	label, value, _ := strings.Cut(namespaceLabel, "=")
	n.apply(fmt.Sprintf(`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":%q,"labels":{%q:%q,"pod-security.kubernetes.io/enforce":%q}}}`, n.name, label, value, level))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), limit)
		defer cancel()
		if t.Failed() {
			for _, args := range [][]string{{"get", "pods", "--output=wide"}, {"events"}, {"logs", "--selector=app.kubernetes.io/part-of=roundtrip", "--all-containers", "--prefix", "--tail=20"}} {
				out, err := output(ctx, "", "kubectl", append([]string{"--namespace=" + n.name}, args...)...)
				t.Log(n.name, args, out, err)
			}
		}
		// The end of all tests waits for the deletion.
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

// caller starts the pod that sends requests.
func (n *namespace) caller(args ...string) {
	n.Helper()
	list, err := json.Marshal(args)
	if err != nil {
		n.Fatal(err)
	}
	n.apply(n.manifest("caller.yaml", map[string]string{"Image": callerImage, "Args": string(list)}))
	n.kubectl("wait", "--for=condition=Ready", "pod/caller", "--timeout=2m")
}

// call sends a request from the caller's pod and returns the status and the body.
func (n *namespace) call(method, url string, body ...string) (string, error) {
	return n.try(append([]string{"exec", "caller", "--", "/caller", "call", method, url}, body...)...)
}

// must sends a request. The response must start with a text.
func (n *namespace) must(begins, method, url string, body ...string) string {
	n.Helper()
	out, err := n.call(method, url, body...)
	if err != nil || !strings.HasPrefix(out, begins) {
		n.Fatalf("%s %s: want %q, got %s %v", method, url, begins, out, err)
	}
	return out
}

// until waits for a condition.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	wait.Until(t, limit, what, nil, condition)
}
