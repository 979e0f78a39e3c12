package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"time"
)

// tool is one file for one platform.
type tool struct {
	// name is the name of the file. version is its version, and names its folder.
	name, version string
	// release is the URL of the file, packed with gzip, in the project's releases.
	release string
	// pack is the npm package with its version. file is the path in that package.
	pack, file string
	// sum is the SHA-256 of the file. It is empty if the file was not available when
	// this was written. Then the sum that the releases publish is checked, or npm checks
	// its sum of the whole package.
	sum string
}

// ffiVersion is the version of the library that pact-go v2.7.0 needs.
const (
	ffiVersion  = "0.5.6"
	corePack    = "@20.1.0" // the version of the pact-core packages that contain it
	ffiReleases = "https://github.com/pact-foundation/pact-reference/releases/download/libpact_ffi-v" + ffiVersion + "/libpact_ffi-"
	cliVersion  = "18.1.2"
)

var tools = map[string]map[string]tool{
	"ffi": {
		"linux/amd64": {name: "libpact_ffi.so", version: ffiVersion, release: ffiReleases + "linux-x86_64.so.gz",
			pack: "@pact-foundation/pact-core-linux-x64-glibc" + corePack, file: "prebuilds/linux-x64/libpact_ffi.so",
			sum: "85a528c2deb2153ee270e4a2ec333ba3c35920c9ef43360b98cbca4474702684"},
		"linux/arm64": {name: "libpact_ffi.so", version: ffiVersion, release: ffiReleases + "linux-aarch64.so.gz",
			pack: "@pact-foundation/pact-core-linux-arm64-glibc" + corePack, file: "prebuilds/linux-arm64/libpact_ffi.so"},
		"darwin/amd64": {name: "libpact_ffi.dylib", version: ffiVersion, release: ffiReleases + "macos-x86_64.dylib.gz",
			pack: "@pact-foundation/pact-core-darwin-x64" + corePack, file: "prebuilds/darwin-x64/libpact_ffi.dylib"},
		"darwin/arm64": {name: "libpact_ffi.dylib", version: ffiVersion, release: ffiReleases + "macos-aarch64.dylib.gz",
			pack: "@pact-foundation/pact-core-darwin-arm64" + corePack, file: "prebuilds/darwin-arm64/libpact_ffi.dylib"},
	},
	"cli": {
		"linux/amd64":  cli("linux-x64", "d69be30fb034789e9cbd8dc170fd2bc794860e8202c6b9144585adc2ecec345d"),
		"linux/arm64":  cli("linux-arm64", "3871e5a0e71906ebe8c8a317b74d25db57422876988db0e2433573c9558c8513"),
		"darwin/amd64": cli("darwin-x64", "8acd668d7671b27fb25f31d6376191e7b852944557f7641f9349531febd6095b"),
		"darwin/arm64": cli("darwin-arm64", "97f2f2d5e8c9fdcf85527706fb55df58d2f769d53c6e878210de4ba2f4c8b34c"),
	},
}

func cli(platform, sum string) tool {
	return tool{name: "pact", version: cliVersion, pack: "@pact-foundation/pact-cli-" + platform + "@" + cliVersion, file: "standalone/pact", sum: sum}
}

// install returns the path of the tool in a folder. It downloads the tool first if it is
// missing.
func (t tool) install(ctx context.Context, folder string) (string, error) {
	folder = filepath.Join(folder, "pact-"+t.version)
	target := filepath.Join(folder, t.name)
	if err := t.check(target, ""); err == nil {
		return target, nil
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	// Another process may install the same tool at the same time. So download into a
	// folder of this process, and then move the file in one step.
	work, err := os.MkdirTemp(folder, "new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	fresh := filepath.Join(work, t.name)
	var failures []error
	for _, source := range []struct {
		name string
		get  func(context.Context, string) error
	}{{t.release, t.fromReleases}, {"npm, " + t.pack, t.fromNPM}} {
		if source.name == "" {
			continue
		}
		say("%s: downloading it from %s", t.name, source.name)
		err := source.get(ctx, fresh)
		if err == nil {
			err = settle(ctx, fresh, target)
		}
		if err == nil {
			return target, nil
		}
		say("%s: %v", t.name, err)
		failures = append(failures, err)
	}
	return "", fmt.Errorf("can't download %s; put it at %s by hand: %w", t.name, target, errors.Join(failures...))
}

// settle moves a file to its final path. On macOS a library must contain its own path.
func settle(ctx context.Context, fresh, target string) error {
	if filepath.Ext(target) == ".dylib" {
		if out, err := exec.CommandContext(ctx, "install_name_tool", "-id", target, fresh).CombinedOutput(); err != nil {
			return fmt.Errorf("install_name_tool: %w\n%s", err, out)
		}
	}
	return os.Rename(fresh, target)
}

// check returns an error if the SHA-256 of a file is not the pinned one. If no sum is
// pinned, it compares with the argument sum. If that is "" too, the file must only exist.
func (t tool) check(file, sum string) error {
	if t.sum != "" {
		sum = t.sum
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return err
	}
	if got := hex.EncodeToString(hash.Sum(nil)); sum != "" && got != sum {
		return fmt.Errorf("its SHA-256 is %s, not %s", got, sum)
	}
	return nil
}

// fromReleases downloads the file from the releases and unpacks it.
func (t tool) fromReleases(ctx context.Context, to string) error {
	sum := ""
	if t.sum == "" {
		said, err := fetch(ctx, t.release+".sha256")
		if err != nil {
			return err
		}
		defer said.Close()
		if _, err := fmt.Fscan(said, &sum); err != nil {
			return fmt.Errorf("read its SHA-256: %w", err)
		}
	}
	packed, err := fetch(ctx, t.release)
	if err != nil {
		return err
	}
	defer packed.Close()
	hash := sha256.New()
	unpacked, err := gzip.NewReader(io.TeeReader(packed, hash))
	if err != nil {
		return err
	}
	if err := write(to, unpacked); err != nil {
		return err
	}
	// The releases publish the sum of the packed file.
	if got := hex.EncodeToString(hash.Sum(nil)); sum != "" && got != sum {
		return fmt.Errorf("its SHA-256 is %s, not %s", got, sum)
	}
	return t.check(to, "")
}

func fetch(ctx context.Context, url string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	client := http.Client{Timeout: 5 * time.Minute}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		response.Body.Close()
		return nil, fmt.Errorf("%s: %s", url, response.Status)
	}
	return response.Body, nil
}

// fromNPM downloads an npm package and takes the file from it. npm checks the package.
func (t tool) fromNPM(ctx context.Context, to string) error {
	npm, err := exec.LookPath("npm")
	if err != nil {
		return errors.New("npm is not installed (https://nodejs.org)")
	}
	pack := exec.CommandContext(ctx, npm, "pack", "--silent", t.pack)
	pack.Dir = filepath.Dir(to)
	if out, err := pack.CombinedOutput(); err != nil {
		return fmt.Errorf("npm pack %s: %w\n%s", t.pack, err, out)
	}
	archives, _ := filepath.Glob(filepath.Join(pack.Dir, "*.tgz"))
	if len(archives) != 1 {
		return fmt.Errorf("npm pack %s left %v", t.pack, archives)
	}
	f, err := os.Open(archives[0])
	if err != nil {
		return err
	}
	defer f.Close()
	unpacked, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	for archive := tar.NewReader(unpacked); ; {
		header, err := archive.Next()
		if err != nil {
			return fmt.Errorf("%s has no %s: %w", t.pack, t.file, err)
		}
		if header.Name == path.Join("package", t.file) {
			if err := write(to, archive); err != nil {
				return err
			}
			return t.check(to, "")
		}
	}
}

func write(to string, content io.Reader) error {
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close())
}
