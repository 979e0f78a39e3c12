package containers

import (
	"context"
	"fmt"
	"os"

	"github.com/testcontainers/testcontainers-go"
)

// Ryuk is the image of the process that testcontainers-go v0.45.0 starts to
// remove what killed tests leave behind.
const Ryuk = "testcontainers/ryuk:0.14.0"

// Image is a third-party image.
type Image struct {
	// Variable names the environment variable by which another one is used.
	Variable string
	// Registry is the pinned image; Built is what setup builds from packages where
	// the registry can't be reached.
	Registry, Built string
}

// PostgresImage is the server's. It takes POSTGRES_USER, POSTGRES_PASSWORD and
// the server's own arguments.
var PostgresImage = Image{Variable: "POSTGRES_IMAGE", Registry: "docker.io/library/postgres:15.18", Built: "roundtrip/postgres:15-debian"}

// Find returns the name under which the engine has the image.
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
