package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
)

type engine struct{ *testcontainers.DockerClient }

// startEngine starts dockerd. It installs Debian's package first if dockerd is missing.
func startEngine(ctx context.Context) (stop func() error, err error) {
	if _, err := exec.LookPath("dockerd"); err != nil {
		say("engine: dockerd is not installed; installing Debian's docker.io")
		if err := install(ctx, "docker.io"); err != nil {
			return nil, err
		}
	}
	folder, err := os.MkdirTemp("", "roundtrip-engine-")
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(folder, "dockerd.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	say("engine: starting dockerd")
	// dockerd runs in its own session, so Ctrl-C reaches only the tests. dockerd stops
	// after they have ended.
	daemon := exec.Command("dockerd") //nolint:noctx // The engine outlives the context; stop ends it.
	daemon.Stdout, daemon.Stderr = log, log
	daemon.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := daemon.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- daemon.Wait() }()
	stop = func() error {
		say("engine: stopping dockerd")
		if err := daemon.Process.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		return errors.Join(<-ended, os.RemoveAll(folder))
	}
	for patience := time.After(30 * time.Second); ; {
		if _, err := os.Stat("/var/run/docker.sock"); err == nil && ping(ctx) == nil {
			return stop, nil
		}
		select {
		case err := <-ended:
			text, _ := os.ReadFile(log.Name())
			return nil, errors.Join(fmt.Errorf("dockerd ended (%v):\n%s", err, text), os.RemoveAll(folder)) //nolint:errorlint // err may be nil, which %w does not print.
		case <-patience:
			return nil, errors.Join(errors.New("dockerd does not answer; its log is "+log.Name()), daemon.Process.Kill())
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), stop())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func ping(ctx context.Context) error {
	c, err := client.New(client.WithHost("unix:///var/run/docker.sock"))
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Ping(ctx, client.PingOptions{})
	return err
}

// install installs Debian packages.
func install(ctx context.Context, packages ...string) error {
	apt, err := exec.LookPath("apt-get")
	if err != nil {
		return fmt.Errorf("install %s: this is not Debian", strings.Join(packages, ", "))
	}
	arguments := append([]string{"install", "-y", "-q", "--no-install-recommends"}, packages...)
	for _, step := range [][]string{{"update", "-q"}, arguments} {
		c := exec.CommandContext(ctx, apt, step...)
		c.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w\n%s", strings.Join(step, " "), err, out)
		}
	}
	return nil
}

// pull pulls an image if the engine does not have it.
func (e *engine) pull(ctx context.Context, name string) error {
	if _, err := e.ImageInspect(ctx, name); err == nil {
		return nil
	}
	pulling, err := e.ImagePull(ctx, name, client.ImagePullOptions{})
	if err != nil {
		return err
	}
	return pulling.Wait(ctx)
}

// load makes an image from a file system in a tar archive.
func (e *engine) load(ctx context.Context, archive io.Reader, name string, changes ...string) error {
	result, err := e.ImageImport(ctx, client.ImageImportSource{Source: archive, SourceName: "-"}, name, client.ImageImportOptions{Changes: changes})
	if err != nil {
		return err
	}
	defer result.Close()
	_, err = io.Copy(io.Discard, result)
	return err
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
