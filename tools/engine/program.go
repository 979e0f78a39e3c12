package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// buildProgram builds an image that contains only a program from a Go module.
func buildProgram(ctx context.Context, e *engine, program, name string) error {
	folder, err := os.MkdirTemp("", "roundtrip-program-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	install := exec.CommandContext(ctx, "go", "install", "-trimpath", "-ldflags=-s -w", program)
	install.Env = append(os.Environ(), "GOBIN="+folder, "CGO_ENABLED=0")
	if out, err := install.CombinedOutput(); err != nil {
		return fmt.Errorf("go install %s: %w\n%s", program, err, out)
	}
	built, err := filepath.Glob(filepath.Join(folder, "*"))
	if err != nil || len(built) != 1 {
		return fmt.Errorf("go install %s made %v: %w", program, built, err)
	}
	binary, err := os.ReadFile(built[0])
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "server", Mode: 0o555, Size: int64(len(binary))}); err != nil {
		return err
	}
	if _, err := w.Write(binary); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return e.load(ctx, &archive, name, `USER 65532:65532`, `ENTRYPOINT ["/server"]`)
}
