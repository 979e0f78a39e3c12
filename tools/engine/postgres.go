package main

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

//go:embed postgres-entrypoint
var postgresEntrypoint []byte

// buildPostgres builds an image of Debian's PostgreSQL. It takes the same variables and
// arguments as the registry's image.
func buildPostgres(ctx context.Context, e *engine, name string) error {
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		if err := install(ctx, "mmdebstrap"); err != nil {
			return err
		}
	}
	folder, err := os.MkdirTemp("", "roundtrip-postgres-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	entrypoint, archive := filepath.Join(folder, "entrypoint"), filepath.Join(folder, "root.tar")
	if err := os.WriteFile(entrypoint, postgresEntrypoint, 0o755); err != nil {
		return err
	}
	bootstrap := exec.CommandContext(ctx, "mmdebstrap", "--variant=minbase", "--include=postgresql-15",
		"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
		"--customize-hook=rm -rf \"$1\"/var/lib/postgresql/15",
		"--customize-hook=copy-in "+entrypoint+" /usr/local/bin",
		"bookworm", archive)
	if out, err := bootstrap.CombinedOutput(); err != nil {
		return fmt.Errorf("mmdebstrap: %w\n%s", err, out)
	}
	file, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer file.Close()
	return e.load(ctx, file, name,
		`ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`,
		`ENV PGDATA=/var/lib/postgresql/data`, `ENV LANG=C.UTF-8`, `VOLUME /var/lib/postgresql/data`, `EXPOSE 5432`,
		`ENTRYPOINT ["/usr/local/bin/entrypoint"]`, `CMD ["postgres"]`)
}
