// Command image makes the services' container images for amd64 and arm64. It needs
// no container engine. An image has the static binary, the public root certificates,
// an empty data folder, and nothing else. The same source gives the same digest.
//
//	image [--load] [--push=REGISTRY/PREFIX] [--out=.build/images]
//
// It writes an OCI image layout for each service, and next to it a list of the
// modules in each binary (CycloneDX). With --load it also loads the image for this
// machine into the local engine. With --push it also pushes all images to a registry.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/moby/moby/client"
)

// services are the services that get an image.
var services = []string{"inventory", "orders"}

type flags struct {
	Out  string `help:"Folder for the image layouts and the lists of contents." default:".build/images" type:"path"`
	Load bool   `help:"Also load the image for this machine into the local engine, as roundtrip/SERVICE:VERSION and :latest."`
	Push string `help:"Also push to this registry and prefix, such as images.example.com/roundtrip." placeholder:"PREFIX"`

	Here    bool   `help:"Make only the image for this machine's architecture. For tests."`
	Source  string `help:"Git checkout to build from. For tests of one version against another." default:"." type:"path"`
	Overlay string `help:"File for Go's -overlay, which replaces source files. For tests of the tests." type:"path" placeholder:"JSON"`
	Tag     string `help:"With --load, use this tag instead of VERSION and latest."`
	Version string `help:"The version. Needed if git has several names for the commit."`
}

func main() {
	var f flags
	kong.Parse(&f, kong.Description("Makes the services' container images, without a container engine."))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := f.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func (f flags) run(ctx context.Context) error {
	source, err := readSource(ctx, f.Source)
	if err != nil {
		return err
	}
	source.overlay = f.Overlay
	source.version = cmp.Or(f.Version, source.version)
	if f.Here {
		architectures = []string{runtime.GOARCH}
	}
	tags := []string{source.version, "latest"}
	if f.Tag != "" {
		tags = []string{f.Tag}
	}
	for _, service := range services {
		images, err := build(ctx, source, service, f.Out)
		if err != nil {
			return fmt.Errorf("%s: %w", service, err)
		}
		index, err := indexOf(images)
		if err != nil {
			return err
		}
		folder := filepath.Join(f.Out, service)
		if err := errors.Join(os.RemoveAll(folder), os.MkdirAll(folder, 0o755)); err != nil {
			return err
		}
		if _, err := layout.Write(folder, index); err != nil {
			return fmt.Errorf("write the layout: %w", err)
		}
		digest, err := index.Digest()
		if err != nil {
			return err
		}
		fmt.Printf("%s\t%s\t%s\n", service, digest, folder)
		if f.Load {
			if err := load(ctx, images[v1.Platform{OS: "linux", Architecture: runtime.GOARCH}.String()], service, tags); err != nil {
				return fmt.Errorf("load %s: %w", service, err)
			}
		}
		if f.Push != "" {
			if err := push(ctx, index, f.Push+"/"+service, source.version); err != nil {
				return fmt.Errorf("push %s: %w", service, err)
			}
		}
	}
	return nil
}

// load puts an image into the local engine.
func load(ctx context.Context, image v1.Image, service string, names []string) error {
	if image == nil {
		return fmt.Errorf("there is no image for %s", runtime.GOARCH)
	}
	tags := map[name.Tag]v1.Image{}
	for _, tag := range names {
		t, err := name.NewTag("roundtrip/" + service + ":" + tag)
		if err != nil {
			return err
		}
		tags[t] = image
	}
	file, err := os.CreateTemp("", "roundtrip-image-")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	if err := tarball.MultiWrite(tags, file); err != nil {
		return err
	}
	if _, err := file.Seek(0, 0); err != nil {
		return err
	}
	engine, err := client.New(client.FromEnv)
	if err != nil {
		return err
	}
	defer engine.Close()
	answer, err := engine.ImageLoad(ctx, file)
	if err != nil {
		return err
	}
	defer answer.Close()
	_, err = io.Copy(io.Discard, answer) // the engine has loaded the image when its answer ends
	return err
}

// push pushes all platforms' images to a registry, under the version. It prints the
// digests of the index and of each platform's image.
func push(ctx context.Context, index v1.ImageIndex, repository, version string) error {
	tag, err := name.NewTag(repository + ":" + version)
	if err != nil {
		return err
	}
	if err := remote.WriteIndex(tag, index, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return err
	}
	fmt.Printf("%s@%s\tindex\n", repository, digest)
	for _, m := range manifest.Manifests {
		fmt.Printf("%s@%s\t%s\n", repository, m.Digest, m.Platform)
	}
	return nil
}
