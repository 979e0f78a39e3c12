package process

import (
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"testing"

	_ "modernc.org/sqlite" // makes the backup, as the sqlite3 command would

	"roundtrip/test/support/containers"
)

// databases are the databases of both services. backUp and restore work on orders'
// database, as docs/operations.md describes.
type databases struct {
	inventory, orders string
	backUp, restore   func() error
	// shared says that a repair may run while orders runs.
	shared bool
}

func sqliteDatabases(t *testing.T) databases {
	folder := t.TempDir()
	path, backup := filepath.Join(folder, "orders.db"), filepath.Join(folder, "orders-backup.db")
	return databases{
		inventory: "sqlite:" + filepath.Join(folder, "inventory.db"), orders: "sqlite:" + path,
		backUp: func() error {
			db, err := sql.Open("sqlite", path)
			if err != nil {
				return err
			}
			_, err = db.ExecContext(t.Context(), "VACUUM INTO ?", backup)
			return errors.Join(err, db.Close())
		},
		restore: func() error {
			for _, suffix := range []string{"", "-wal", "-shm"} {
				if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
					return err
				}
			}
			content, err := os.ReadFile(backup)
			if err != nil {
				return err
			}
			return os.WriteFile(path, content, 0o600)
		},
	}
}

func postgresDatabases(t *testing.T) databases {
	server := containers.SharedPostgres(t)
	made := func(service string) (name, address string) {
		name, err := server.NewDatabase(t.Context(), service, migrate(t, product, service))
		if err == nil {
			address, err = server.Address(t.Context(), name)
		}
		if err != nil {
			t.Fatal(err)
		}
		return name, address
	}
	_, inventory := made("inventory")
	name, orders := made("orders")
	inside := func(command string, args ...string) func() error {
		return func() error {
			_, err := server.Run(t.Context(), append([]string{command}, args...)...)
			return err
		}
	}
	return databases{
		inventory: inventory, orders: orders, shared: true,
		backUp: inside("pg_dump", "--format=custom", "--file=/tmp/orders.dump", server.AddressInside(name)),
		restore: func() error {
			for _, step := range []func() error{
				inside("dropdb", "--maintenance-db="+server.AddressInside("postgres"), name),
				inside("createdb", "--maintenance-db="+server.AddressInside("postgres"), name),
				inside("pg_restore", "--exit-on-error", "--dbname="+server.AddressInside(name), "/tmp/orders.dump"),
			} {
				if err := step(); err != nil {
					return err
				}
			}
			return nil
		},
	}
}
