package containers

import (
	"context"
	"fmt"
	"os"

	"github.com/testcontainers/testcontainers-go"
)

// Ryuk is the image that testcontainers-go v0.45.0 uses to remove the containers of
// killed tests.
const Ryuk = "testcontainers/ryuk:0.14.0"

// Image is a third-party image. All images that tests use are pinned here.
type Image struct {
	// Name is the name of the program.
	Name string
	// Variable is the environment variable that selects another image.
	Variable string
	// Registry is the pinned image. If the registry can't be reached, tools/engine
	// builds Built from the Go package Program, or from distribution packages.
	Registry, Built, Program string
}

// The images. Each accepts its server's arguments. PostgreSQL's also accepts
// POSTGRES_USER and POSTGRES_PASSWORD.
var (
	PostgresImage = Image{
		Name: "PostgreSQL", Variable: "POSTGRES_IMAGE",
		Registry: "docker.io/library/postgres:15.18", Built: "roundtrip/postgres:15-debian",
	}
	NATSImage = Image{
		Name: "NATS", Variable: "NATS_IMAGE",
		Registry: "docker.io/library/nats:2.15.2", Built: "roundtrip/nats:2.15.2", Program: "github.com/nats-io/nats-server/v2@v2.15.2",
	}
	ToxiproxyImage = Image{
		Name: "Toxiproxy", Variable: "TOXIPROXY_IMAGE",
		Registry: "ghcr.io/shopify/toxiproxy:2.12.0", Built: "roundtrip/toxiproxy:2.12.0", Program: "github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0",
	}
)

// Find returns the name of the image in the engine.
func (i Image) Find(ctx context.Context, engine *testcontainers.DockerClient) (string, error) {
	if other := os.Getenv(i.Variable); other != "" {
		return other, nil
	}
	for _, name := range []string{i.Registry, i.Built} {
		if _, err := engine.ImageInspect(ctx, name); err == nil {
			return name, nil
		}
	}
	return "", fmt.Errorf("the engine has neither %s nor %s; run `make engine`", i.Registry, i.Built)
}

// Start starts a container of the image; see [Start].
func (i Image) Start(ctx context.Context, ports []string, options ...testcontainers.ContainerCustomizer) (*Container, error) {
	engine, err := Engine(ctx)
	if err != nil {
		return nil, err
	}
	name, err := i.Find(ctx, engine)
	if err != nil {
		return nil, err
	}
	return Start(ctx, name, ports, options...)
}
