package containers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/exec"
)

// Container is a container with operations for tests.
type Container struct {
	engine *testcontainers.DockerClient
	*testcontainers.DockerContainer
}

// Start starts a container. Only this machine reaches its ports. Start does not wait
// until the program in it is ready.
func Start(ctx context.Context, image string, ports []string, options ...testcontainers.ContainerCustomizer) (*Container, error) {
	starting.RLock()
	defer starting.RUnlock()
	engine, err := Engine(ctx)
	if err != nil {
		return nil, err
	}
	bindings, exposed := network.PortMap{}, []string{}
	for _, port := range ports {
		bindings[network.MustParsePort(port+"/tcp")] = []network.PortBinding{{HostIP: netip.MustParseAddr("127.0.0.1")}}
		exposed = append(exposed, port+"/tcp")
	}
	all := append([]testcontainers.ContainerCustomizer{testcontainers.WithLabels(Labels()), testcontainers.WithExposedPorts(exposed...), testcontainers.WithHostConfigModifier(func(host *container.HostConfig) {
		host.PortBindings = bindings
	})}, options...)
	c, err := testcontainers.Run(ctx, image, all...)
	if err != nil {
		return nil, errors.Join(err, testcontainers.TerminateContainer(c))
	}
	return &Container{engine, c}, nil
}

// Stop removes the container and its data.
func (c *Container) Stop(ctx context.Context) error {
	return c.Terminate(ctx, testcontainers.StopTimeout(0))
}

// Start starts a stopped container again, with its data.
func (c *Container) Start(ctx context.Context) error {
	_, err := c.engine.ContainerStart(ctx, c.GetContainerID(), client.ContainerStartOptions{})
	return err
}

// Kill sends SIGKILL to the container's first process.
func (c *Container) Kill(ctx context.Context) error { return c.Signal(ctx, "SIGKILL") }

// Signal sends a signal to the container's first process.
func (c *Container) Signal(ctx context.Context, signal string) error {
	_, err := c.engine.ContainerKill(ctx, c.GetContainerID(), client.ContainerKillOptions{Signal: signal})
	return err
}

// Ended says whether the container's first process has exited, and with which status.
func (c *Container) Ended(ctx context.Context) (status int, ended bool) {
	state, err := c.State(ctx)
	if err != nil || state.Running {
		return 0, false
	}
	return state.ExitCode, true
}

// pauseTries is how often Pause tries.
const pauseTries = 20

// Pause freezes every process in the container until Resume. An engine on cgroup v1
// may fail to freeze a server that is starting processes ("unable to freeze"). Pause
// then tries again.
func (c *Container) Pause(ctx context.Context) (err error) {
	for range pauseTries {
		if _, err = c.engine.ContainerPause(ctx, c.GetContainerID(), client.ContainerPauseOptions{}); err == nil {
			return nil
		}
	}
	return err
}

// Resume ends a Pause.
func (c *Container) Resume(ctx context.Context) error {
	_, err := c.engine.ContainerUnpause(ctx, c.GetContainerID(), client.ContainerUnpauseOptions{})
	return err
}

// Run runs a command in the container and returns its output. A status other than 0 is an
// [ExitError].
func (c *Container) Run(ctx context.Context, command ...string) (string, error) {
	status, output, err := c.Exec(ctx, command, exec.Multiplexed())
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(output)
	if err == nil && status != 0 {
		err = ExitError{command[0], status, string(text)}
	}
	return string(text), err
}

// ExitError is the failure of a command in a container.
type ExitError struct {
	Command string
	Status  int
	Output  string
}

func (e ExitError) Error() string {
	return fmt.Sprintf("%s: exit %d\n%s", e.Command, e.Status, e.Output)
}

// CPU is the processor time that the container has used since its start.
func (c *Container) CPU(ctx context.Context) (time.Duration, error) {
	answer, err := c.engine.ContainerStats(ctx, c.GetContainerID(), client.ContainerStatsOptions{})
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	var stats container.StatsResponse
	if err := json.NewDecoder(answer.Body).Decode(&stats); err != nil {
		return 0, err
	}
	return time.Duration(stats.CPUStats.CPUUsage.TotalUsage), nil
}

// Endpoint is the address of one of the container's ports for this machine. On Linux
// it is the container's own address. A published port has a proxy process of the
// engine, which copies every byte and would affect measurements.
func (c *Container) Endpoint(ctx context.Context, port string) (string, error) {
	if ip, err := c.ContainerIP(ctx); err == nil && ip != "" && runtime.GOOS == "linux" {
		direct := net.JoinHostPort(ip, port)
		dialer := net.Dialer{Timeout: 200 * time.Millisecond}
		connection, err := dialer.DialContext(ctx, "tcp", direct)
		switch {
		case err == nil:
			return direct, connection.Close()
		case errors.Is(err, syscall.ECONNREFUSED): // the address is reachable, but nothing listens yet
			return direct, nil
		}
	}
	return c.PortEndpoint(ctx, port+"/tcp", "")
}

// Log is the container's output.
func (c *Container) Log(ctx context.Context) string {
	log, err := c.Logs(context.WithoutCancel(ctx))
	if err != nil {
		return err.Error()
	}
	defer log.Close()
	text, err := io.ReadAll(log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
