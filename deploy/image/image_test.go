package main

import (
	"archive/tar"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Two builds in different folders give the same bytes.
func TestSameSourceGivesSameDigest(t *testing.T) {
	t.Parallel()
	s, err := readSource(t.Context(), ".")
	if err != nil {
		t.Fatal(err)
	}
	var digests []v1.Hash
	for range 2 {
		binary := filepath.Join(t.TempDir(), "inventory")
		if err := compile(t.Context(), s, "inventory", runtime.GOARCH, binary); err != nil {
			t.Fatal(err)
		}
		image, err := imageOf(s, "inventory", runtime.GOARCH, binary)
		if err != nil {
			t.Fatal(err)
		}
		if err := checkSize(image); err != nil {
			t.Error(err)
		}
		digest, err := image.Digest()
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, digest)
	}
	if digests[0] != digests[1] {
		t.Errorf("%s and %s", digests[0], digests[1])
	}
}

// After a push the registry has the index under the version. The index has both
// platforms' images.
func TestPush(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "orders")
	if err := os.WriteFile(binary, []byte("a binary"), 0o600); err != nil {
		t.Fatal(err)
	}
	images := map[string]v1.Image{}
	for _, architecture := range architectures {
		image, err := imageOf(source{version: "v1.2.3", commit: "c0ffee"}, "orders", architecture, binary)
		if err != nil {
			t.Fatal(err)
		}
		images["linux/"+architecture] = image
	}
	index, err := indexOf(images)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	repository := strings.TrimPrefix(server.URL, "http://") + "/shop/orders"
	if err := push(t.Context(), index, repository, "v1.2.3"); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(repository + ":v1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	pushed, err := remote.Index(tag)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := pushed.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range manifest.Manifests {
		want, err := images["linux/"+architectures[i]].Digest()
		if err != nil || m.Digest != want || m.Platform.Architecture != architectures[i] {
			t.Errorf("%s has the image %s, want %s (%v)", m.Platform, m.Digest, want, err)
		}
	}
	if len(manifest.Manifests) != len(architectures) {
		t.Errorf("the index has %d images, want %d", len(manifest.Manifests), len(architectures))
	}
}

// An image holds the binary, the root certificates and an empty data folder. It runs
// as an unprivileged user and starts the service that it is named after.
func TestImageHoldsOnlyBinaryAndCertificates(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "orders")
	if err := os.WriteFile(binary, []byte("a binary"), 0o600); err != nil {
		t.Fatal(err)
	}
	image, err := imageOf(source{version: "v1", commit: "c0ffee"}, "orders", "arm64", binary)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c := config.Config
	if config.Architecture != "arm64" || c.User != "65532:65532" || !slices.Equal(c.Entrypoint, []string{"/orders"}) ||
		!slices.Equal(c.Healthcheck.Test, []string{"CMD", "/orders", "healthcheck"}) || c.Labels["org.opencontainers.image.revision"] != "c0ffee" {
		t.Errorf("%+v", config)
	}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	files, data := map[string][]byte{}, false
	for _, layer := range layers {
		content, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		defer content.Close()
		for archive := tar.NewReader(content); ; {
			header, err := archive.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if header.Name == "data/" && header.Uid == 65532 && header.Mode == 0o700 {
				data = true
				continue
			}
			if header.Uid != 0 || !header.ModTime.IsZero() && header.ModTime.Unix() != 0 || header.Mode&0o222 != 0 {
				t.Errorf("%s has the owner %d, the time %s and the mode %o", header.Name, header.Uid, header.ModTime, header.Mode)
			}
			if header.Typeflag == tar.TypeReg {
				if files[header.Name], err = io.ReadAll(archive); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if len(files) != 2 || string(files["orders"]) != "a binary" || !data {
		t.Errorf("the image holds %d files, want 2; has a data folder: %t", len(files), data)
	}
	if pool := x509.NewCertPool(); !pool.AppendCertsFromPEM(files[rootsPath]) {
		t.Error("the image has no root certificates")
	}
}

func TestContentsListModules(t *testing.T) {
	t.Parallel()
	self, err := os.Executable() // any Go binary will do
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(t.TempDir(), "binary")
	if err := os.WriteFile(binary, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := writeContents(binary, "orders", "v1"); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(binary + ".cdx.json")
	if err != nil {
		t.Fatal(err)
	}
	var bom struct {
		BOMFormat  string
		Components []struct{ Name, Version, PURL string }
	}
	if err := json.Unmarshal(text, &bom); err != nil {
		t.Fatal(err)
	}
	has := slices.ContainsFunc(bom.Components, func(c struct{ Name, Version, PURL string }) bool {
		return c.Name == "github.com/google/go-containerregistry" && c.PURL == "pkg:golang/"+c.Name+"@"+c.Version
	})
	if bom.BOMFormat != "CycloneDX" || !has {
		t.Errorf("%s with %d components", bom.BOMFormat, len(bom.Components))
	}
}
