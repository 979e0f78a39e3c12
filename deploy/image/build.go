package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"debug/buildinfo"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	cyclonedx "github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// architectures are the architectures of the images. All are for Linux.
var architectures = []string{"amd64", "arm64"}

const (
	// user is an unprivileged user id. It needs no entry in /etc/passwd.
	user = 65532
	// maxSize is the largest allowed size of an image, compressed, in bytes.
	maxSize = 12 << 20
	// rootsPath is where Go's and other TLS libraries look first.
	rootsPath = "etc/ssl/certs/ca-certificates.crt"
	// dataPath is the folder of the SQLite database. It belongs to the user, so a
	// volume that is mounted there does too.
	dataPath = "data/"
)

// source is the checkout that the images are built from.
type source struct {
	folder, version, commit string
	// overlay is a file for Go's -overlay, or "" for none.
	overlay string
	// at is the time of the commit. It is the only time in an image.
	at time.Time
}

// readSource asks git about a folder of the module.
func readSource(ctx context.Context, folder string) (source, error) {
	git := func(args ...string) (string, error) {
		out, err := exec.CommandContext(ctx, "git", append([]string{"-C", folder}, args...)...).Output()
		if err != nil {
			return "", fmt.Errorf("git %s: %w", strings.Join(args, " "), err)
		}
		return strings.TrimSpace(string(out)), nil
	}
	var s source
	var at string
	for _, of := range []struct {
		into *string
		args []string
	}{
		{&s.folder, []string{"rev-parse", "--show-toplevel"}}, {&s.commit, []string{"rev-parse", "HEAD"}},
		{&s.version, []string{"describe", "--tags", "--always", "--dirty"}}, {&at, []string{"show", "-s", "--format=%cI", "HEAD"}},
	} {
		var err error
		if *of.into, err = git(of.args...); err != nil {
			return s, err
		}
	}
	var err error
	s.at, err = time.Parse(time.RFC3339, at)
	return s, err
}

// build returns a service's images by platform, one for each architecture. Next to
// each binary it writes the list of the binary's modules.
func build(ctx context.Context, s source, service, out string) (map[string]v1.Image, error) {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return nil, err
	}
	images := map[string]v1.Image{}
	for _, architecture := range architectures {
		binary := filepath.Join(out, service+"-linux-"+architecture)
		if err := compile(ctx, s, service, architecture, binary); err != nil {
			return nil, err
		}
		if err := writeContents(binary, service, s.version); err != nil {
			return nil, err
		}
		image, err := imageOf(s, service, architecture, binary)
		if err != nil {
			return nil, err
		}
		if err := checkSize(image); err != nil {
			return nil, err
		}
		images[v1.Platform{OS: "linux", Architecture: architecture}.String()] = image
	}
	return images, nil
}

// compile builds a static binary without symbols. The binary contains its commit.
func compile(ctx context.Context, s source, service, architecture, to string) error {
	args := []string{"build", "-trimpath", "-buildvcs=true", "-ldflags=-s -w", "-o", to}
	if s.overlay != "" {
		args = append(args, "-overlay="+s.overlay)
	}
	command := exec.CommandContext(ctx, "go", append(args, "./services/"+service)...)
	command.Dir = s.folder
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+architecture)
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// imageOf returns an image of a binary, the root certificates and the data folder.
func imageOf(s source, service, architecture, binary string) (v1.Image, error) {
	content, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	var adds []mutate.Addendum
	for _, e := range []entry{
		{path: rootsPath, mode: 0o444, content: roots()},
		{path: service, mode: 0o555, content: content},
		{path: dataPath, mode: 0o700, owner: user},
	} {
		layer, err := layerOf(e)
		if err != nil {
			return nil, err
		}
		adds = append(adds, mutate.Addendum{Layer: layer, MediaType: types.OCILayer, History: v1.History{Created: v1.Time{Time: s.at}, CreatedBy: "roundtrip/deploy/image: " + e.path}})
	}
	image, err := mutate.Append(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), adds...)
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", architecture, v1.Time{Time: s.at}
	prefix := strings.ToUpper(service) + "_"
	config.Config = v1.Config{
		User: fmt.Sprintf("%d:%d", user, user), Entrypoint: []string{"/" + service}, Cmd: []string{"serve"},
		Env:          []string{prefix + "HTTP_ADDR=:8080", prefix + "ADMIN_ADDR=:9090", prefix + "DATABASE=sqlite:/" + dataPath + service + ".db"},
		ExposedPorts: map[string]struct{}{"8080/tcp": {}, "9090/tcp": {}},
		Healthcheck: &v1.HealthConfig{
			Test: []string{"CMD", "/" + service, "healthcheck"}, Interval: 10 * time.Second, Timeout: 3 * time.Second, StartPeriod: 5 * time.Second,
		},
		Labels: map[string]string{ // OCI image spec v1.1, annotations.md
			"org.opencontainers.image.title": service, "org.opencontainers.image.version": s.version, "org.opencontainers.image.revision": s.commit,
			"org.opencontainers.image.created": s.at.UTC().Format(time.RFC3339), "org.opencontainers.image.licenses": "Apache-2.0",
			"org.opencontainers.image.description": "The " + service + " service of Roundtrip",
		},
	}
	return mutate.ConfigFile(image, config)
}

// entry is a file, or a folder if its path ends with a slash.
type entry struct {
	path    string
	mode    int64
	owner   int
	content []byte
}

// layerOf returns a layer with one entry and its parent folders.
func layerOf(e entry) (v1.Layer, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	header := func(h tar.Header) error {
		h.Format = tar.FormatUSTAR // USTAR without times, so the layer does not depend on when it was made
		return w.WriteHeader(&h)
	}
	parents, name := path.Split(strings.TrimSuffix(e.path, "/"))
	folder := ""
	for part := range strings.SplitSeq(strings.TrimSuffix(parents, "/"), "/") {
		if part == "" {
			continue
		}
		folder += part + "/"
		if err := header(tar.Header{Typeflag: tar.TypeDir, Name: folder, Mode: 0o555}); err != nil {
			return nil, err
		}
	}
	own := tar.Header{Typeflag: tar.TypeReg, Name: folder + name, Mode: e.mode, Uid: e.owner, Gid: e.owner, Size: int64(len(e.content))}
	if strings.HasSuffix(e.path, "/") {
		own.Typeflag, own.Name = tar.TypeDir, e.path
	}
	if err := header(own); err != nil {
		return nil, err
	}
	if _, err := w.Write(e.content); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(gzip.DefaultCompression), tarball.WithCompressedCaching)
}

// roots returns the root certificates that Mozilla trusts without extra constraints,
// as PEM. They come from Go's module x509roots.
func roots() []byte {
	var all bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			all.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}))
		}
	}
	return all.Bytes()
}

func checkSize(image v1.Image) error {
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	total := int64(0)
	for _, layer := range layers {
		size, err := layer.Size()
		if err != nil {
			return err
		}
		total += size
	}
	if total > maxSize {
		return fmt.Errorf("the image has %d bytes compressed, more than %d", total, maxSize)
	}
	return nil
}

// indexOf returns one image index for all platforms.
func indexOf(images map[string]v1.Image) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, architecture := range architectures {
		platform := v1.Platform{OS: "linux", Architecture: architecture}
		image, ok := images[platform.String()]
		if !ok {
			return nil, fmt.Errorf("there is no image for %s", platform)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &platform}})
	}
	return index, nil
}

// writeContents writes the list of a binary's modules as CycloneDX JSON. It reads
// them from the binary's own build information.
func writeContents(binary, service, version string) error {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return err
	}
	component := func(path, version, sum string) cyclonedx.Component {
		purl := "pkg:golang/" + path + "@" + version
		c := cyclonedx.Component{BOMRef: purl, Type: cyclonedx.ComponentTypeLibrary, Name: path, Version: version, PackageURL: purl}
		if sum != "" {
			c.Properties = &[]cyclonedx.Property{{Name: "go:sum", Value: sum}}
		}
		return c
	}
	components := []cyclonedx.Component{component("std", strings.TrimPrefix(info.GoVersion, "go"), "")}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		components = append(components, component(m.Path, m.Version, m.Sum))
	}
	bom := cyclonedx.NewBOM()
	bom.Metadata = &cyclonedx.Metadata{Component: &cyclonedx.Component{BOMRef: service, Type: cyclonedx.ComponentTypeApplication, Name: "roundtrip/" + service, Version: version}}
	bom.Components = &components
	file, err := os.Create(binary + ".cdx.json")
	if err != nil {
		return err
	}
	defer file.Close()
	return cyclonedx.NewBOMEncoder(file, cyclonedx.BOMFileFormatJSON).SetPretty(true).Encode(bom)
}
