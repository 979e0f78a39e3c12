package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"roundtrip/internal/cli"
	"roundtrip/internal/database"
	"roundtrip/internal/lifecycle"
	"roundtrip/internal/migration"
	"roundtrip/test/support/containers"
)

// asTrial names the variable that makes this test's binary run as the service "trial",
// whose command line is below.
const asTrial = "ROUNDTRIP_AS_TRIAL"

func TestMain(m *testing.M) {
	if os.Getenv(asTrial) == "" {
		os.Exit(containers.Main(m))
	}
	os.Exit(cli.Main("trial", "Trial is for tests.", &trial{
		Migrate: migration.Commands{Schema: database.NewSchema(fstest.MapFS{"migrations/postgres/00001_none.sql": {Data: []byte(trialMigration)}})},
	}, map[string]string{"http_addr": "127.0.0.1:8089", "admin_addr": "127.0.0.1:9089"}))
}

// trialMigration fails if there is a statement timeout.
const trialMigration = `-- +goose Up
SELECT 1 / (current_setting('statement_timeout') = '0')::int;
`

type trial struct {
	Serve       trialServe           `cmd:"" help:"Print the flags."`
	Run         trialRun             `cmd:"" help:"Serve, and wait."`
	Fail        trialFail            `cmd:"" help:"Fail."`
	Migrate     migration.Commands   `cmd:"" help:"Migrate."`
	Healthcheck cli.HealthcheckFlags `cmd:"" help:"Check."`
	Version     cli.VersionFlags     `cmd:"" help:"Print the version."`
}

// trialServe has the flags that both services have, and one more, as each service has.
type trialServe struct {
	cli.ServeFlags
	SettleInterval time.Duration `help:"How often." default:"1s"`
}

func (s trialServe) Run(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return json.NewEncoder(os.Stdout).Encode(s)
}

type trialFail struct {
	How string `arg:"" enum:"plainly,exit,wrapped,joined"`
}

func (f trialFail) Run() error {
	plain := errors.New("no luck")
	difference := cli.Exit(cli.ExitDifference, plain)
	return map[string]error{
		"plainly": plain, "exit": difference, "wrapped": fmt.Errorf("audit: %w", difference), "joined": errors.Join(errors.New("close"), difference),
	}[f.How]
}

// result is how a command ended.
type result struct {
	code           int
	stdout, stderr string
	folder         []os.DirEntry
}

// run runs trial in an empty folder, with variables such as "TRIAL_DATABASE=x".
func run(t *testing.T, variables []string, arguments ...string) result {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	command := exec.CommandContext(t.Context(), self, arguments...)
	command.Dir = t.TempDir()
	command.Env = append(append(os.Environ(), asTrial+"=1"), variables...)
	command.Stdout, command.Stderr = &stdout, &stderr
	err = command.Run()
	var e *exec.ExitError
	if err != nil && !errors.As(err, &e) {
		t.Fatal(err)
	}
	folder, err := os.ReadDir(command.Dir)
	if err != nil {
		t.Fatal(err)
	}
	return result{command.ProcessState.ExitCode(), stdout.String(), stderr.String(), folder}
}

func serveFlags(t *testing.T, variables []string, arguments ...string) (flags trialServe) {
	t.Helper()
	r := run(t, variables, append([]string{"serve"}, arguments...)...)
	if r.code != 0 || r.stderr != "" {
		t.Fatalf("got %+v", r)
	}
	if err := json.Unmarshal([]byte(r.stdout), &flags); err != nil {
		t.Fatal(err)
	}
	return flags
}

// everyVariable sets each flag to a value that is not its default.
var everyVariable = []string{
	"TRIAL_DATABASE=sqlite:other.db", "TRIAL_DATABASE_FILE=/run/address", "TRIAL_DATABASE_CONNECTIONS=3", "TRIAL_ALLOW_UNSAFE_DATABASE=true",
	"TRIAL_HTTP_ADDR=:1", "TRIAL_ADMIN_ADDR=:2", "TRIAL_LOG_LEVEL=debug", "TRIAL_DRAIN_TIMEOUT=3s", "TRIAL_MAX_IN_FLIGHT=4",
	"TRIAL_BATCH_MAX=5", "TRIAL_SETTLE_INTERVAL=5s",
}

func TestEveryFlagHasADefaultAndAVariable(t *testing.T) {
	t.Parallel()
	defaults := trialServe{
		ServeFlags: cli.ServeFlags{
			DatabaseFlags: cli.DatabaseFlags{Database: "sqlite:trial.db", DatabaseConnections: 16},
			HTTPAddr:      "127.0.0.1:8089", AdminAddr: "127.0.0.1:9089", LogLevel: slog.LevelInfo, DrainTimeout: 10 * time.Second, MaxInFlight: 512,
			BatchMax: 256,
		},
		SettleInterval: time.Second,
	}
	if got := serveFlags(t, nil); got != defaults {
		t.Errorf("the defaults are %+v, want %+v", got, defaults)
	}
	want := trialServe{
		ServeFlags: cli.ServeFlags{
			DatabaseFlags: cli.DatabaseFlags{
				Database: "sqlite:other.db", DatabaseFile: "/run/address", DatabaseConnections: 3, AllowUnsafeDatabase: true,
			},
			HTTPAddr: ":1", AdminAddr: ":2", LogLevel: slog.LevelDebug, DrainTimeout: 3 * time.Second, MaxInFlight: 4,
			BatchMax: 5,
		},
		SettleInterval: 5 * time.Second,
	}
	got := serveFlags(t, everyVariable)
	if got != want {
		t.Errorf("the variables give %+v, want %+v", got, want)
	}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[trialServe]()) {
		if field.Anonymous {
			continue
		}
		if reflect.ValueOf(got).FieldByIndex(field.Index).Equal(reflect.ValueOf(defaults).FieldByIndex(field.Index)) {
			t.Errorf("no variable here sets %s", field.Name)
		}
	}
	want.AdminAddr = ":7"
	if got := serveFlags(t, everyVariable, "--admin-addr=:7"); got != want {
		t.Errorf("with a flag they give %+v, want %+v", got, want)
	}
}

func TestHelpNamesEveryFlagAndItsVariable(t *testing.T) {
	t.Parallel()
	r := run(t, nil, "serve", "--help")
	if r.code != 0 || r.stderr != "" {
		t.Fatalf("got %+v", r)
	}
	for _, assignment := range everyVariable {
		variable, _, _ := strings.Cut(assignment, "=")
		flag := "--" + strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(variable, "TRIAL_"), "_", "-"))
		if flag == "--batch-max" { // only for measurements
			if strings.Contains(r.stdout, flag) {
				t.Errorf("%s is not hidden", flag)
			}
		} else if !strings.Contains(r.stdout, flag) || !strings.Contains(r.stdout, "($"+variable+")") {
			t.Errorf("%s or $%s is missing from\n%s", flag, variable, r.stdout)
		}
	}
	if r := run(t, nil, "--help"); r.code != 0 || !strings.Contains(r.stdout, "Trial is for tests.") || !strings.Contains(r.stdout, "healthcheck") {
		t.Errorf("got %+v", r)
	}
}

func TestInvalidCommandLine(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		arguments, variables []string
		says                 string
	}{
		"no command":            {nil, nil, `expected one of "serve"`},
		"an unknown command":    {[]string{"sever"}, nil, "sever"},
		"an unknown flag":       {[]string{"serve", "--nope"}, nil, "--nope"},
		"too many arguments":    {[]string{"serve", "now"}, nil, "now"},
		"an invalid level":      {[]string{"serve", "--log-level=loud"}, nil, "--log-level"},
		"an invalid duration":   {[]string{"serve", "--drain-timeout=10"}, nil, "--drain-timeout"},
		"an invalid number":     {[]string{"serve", "--max-in-flight=many"}, nil, "--max-in-flight"},
		"an invalid variable":   {[]string{"serve"}, []string{"TRIAL_DRAIN_TIMEOUT=soon"}, "TRIAL_DRAIN_TIMEOUT"},
		"no requests at all":    {[]string{"serve", "--max-in-flight=0"}, nil, "--max-in-flight must be at least 1"},
		"a negative number":     {[]string{"serve"}, []string{"TRIAL_MAX_IN_FLIGHT=-1"}, "--max-in-flight must be at least 1"},
		"no connections at all": {[]string{"migrate", "up", "--database-connections=0"}, nil, "--database-connections must be at least 1"},
		"negative connections":  {[]string{"serve", "--database-connections=-1"}, nil, "--database-connections must be at least 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := run(t, test.variables, test.arguments...)
			if r.code != cli.ExitFailed || r.stdout != "" || !strings.HasPrefix(r.stderr, "trial: error: ") || !strings.Contains(r.stderr, test.says) {
				t.Errorf("got %+v", r)
			}
		})
	}
}

func TestCommandErrorIsPrintedAndSetsTheExitCode(t *testing.T) {
	t.Parallel()
	for how, want := range map[string]result{
		"plainly": {code: cli.ExitFailed, stderr: "trial: no luck\n"},
		"exit":    {code: cli.ExitDifference, stderr: "trial: no luck\n"},
		"wrapped": {code: cli.ExitDifference, stderr: "trial: audit: no luck\n"},
		"joined":  {code: cli.ExitDifference, stderr: "trial: close\nno luck\n"},
	} {
		if r := run(t, nil, "fail", how); r.code != want.code || r.stderr != want.stderr || r.stdout != "" {
			t.Errorf("%s: got %+v, want %+v", how, r, want)
		}
	}
	plain := errors.New("no luck")
	if err := cli.Exit(1, plain); !errors.Is(err, plain) {
		t.Errorf("the error is lost in %v", err)
	}
}

func TestVersionIsPrinted(t *testing.T) {
	t.Parallel()
	if r := run(t, nil, "version"); r.code != 0 || r.stdout != "trial "+lifecycle.Version()+"\n" {
		t.Errorf("got %+v", r)
	}
}

func TestMigrateRefusesSQLite(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"up", "status"} {
		r := run(t, nil, "migrate", command)
		if r.code != cli.ExitFailed || r.stdout != "" || r.stderr != "trial: nothing to do on SQLite: serve applies the migrations\n" {
			t.Errorf("%s: got %+v", command, r)
		}
		if len(r.folder) != 0 {
			t.Errorf("%s: it creates %v", command, r.folder)
		}
	}
}

// Without a server, migrate fails at once.
func TestMigrateWithoutAServerFails(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"up", "status"} {
		for address, says := range map[string]string{
			"postgres://u:hunter2@127.0.0.1:1/x": "refused",
			"mysql://u:hunter2@db/x":             "a database's address looks like",
			"postgres://u:hunter2@127.0.0.1:1/x?sslmode=verify-full&sslrootcert=/absent": "the database's certificates: open /absent: no such file",
		} {
			r := run(t, []string{"TRIAL_DATABASE=" + address}, "migrate", command)
			if r.code != cli.ExitFailed || r.stdout != "" || !strings.HasPrefix(r.stderr, "trial: ") || !strings.Contains(r.stderr, says) {
				t.Errorf("%s: got %+v", command, r)
			}
			if strings.Contains(r.stderr, "hunter2") {
				t.Errorf("%s: it discloses the password: %s", command, r.stderr)
			}
		}
	}
}

func TestMigrateUpdatesTheSchema(t *testing.T) {
	t.Parallel()
	address := containers.SharedPostgres(t).Database(t, "trial", func(string) error { return nil })
	for _, step := range []struct {
		command string
		want    result
	}{
		{"status", result{code: cli.ExitDifference, stdout: "pending: 00001_none.sql\n", stderr: "trial: 1 migrations are not applied; run migrate up\n"}},
		{"up", result{stdout: "1 migrations applied; the schema is up to date\n"}},
		{"up", result{stdout: "0 migrations applied; the schema is up to date\n"}},
		{"status", result{stdout: "the schema is up to date\n"}},
	} {
		r := run(t, []string{"TRIAL_DATABASE=" + address}, "migrate", step.command)
		if step.command == "up" && r.code == 0 {
			r.stderr = "" // it has log lines
		}
		if r.code != step.want.code || r.stdout != step.want.stdout || r.stderr != step.want.stderr {
			t.Errorf("%s: got %+v, want %+v", step.command, r, step.want)
		}
	}
}

// Help and error messages may name variables, but not print their values.
func TestPasswordIsNotPrinted(t *testing.T) {
	t.Parallel()
	for _, arguments := range []string{"--help", "serve --help", "migrate up --help", "serve --nope", "serve --max-in-flight=0"} {
		r := run(t, []string{"TRIAL_DATABASE=postgres://u:hunter2@db/x"}, strings.Fields(arguments)...)
		if r.stdout+r.stderr == "" || strings.Contains(r.stdout+r.stderr, "hunter2") {
			t.Errorf("%s: got %+v", arguments, r)
		}
	}
}
