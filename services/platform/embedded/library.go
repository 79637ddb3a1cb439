package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// EngineVersion is the version of the ClickHouse engine package that
// deploy/embedded pins and the cache folder is named after.
const EngineVersion = "26.7.3-stable.1"

// EngineLibraryVariable names the environment variable that points at a
// libchdb.so outside the cache folder.
const EngineLibraryVariable = "TOLLWAY_ENGINE_LIBRARY"

// ErrNoEngine means that libchdb.so is not installed.
var ErrNoEngine = errors.New("the ClickHouse engine is not installed; run `make engine`, or set clickhouse.addresses to a ClickHouse server of your own")

// FindLibrary returns the path of libchdb.so: the given one, else the one that
// TOLLWAY_ENGINE_LIBRARY names, else the one deploy/embedded/fetch.sh has put
// into the cache folder. The error wraps ErrNoEngine when there is none.
func FindLibrary(path string) (string, error) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return "", fmt.Errorf("the embedded ClickHouse engine runs on Linux x86-64 only and this is %s/%s; set clickhouse.addresses to a ClickHouse server of your own", runtime.GOOS, runtime.GOARCH)
	}
	if path == "" {
		path = os.Getenv(EngineLibraryVariable)
	}
	if path == "" {
		cache, err := cacheFolder()
		if err != nil {
			return "", err
		}
		folder := filepath.Join(cache, "engine-"+EngineVersion)
		// The stamp is written last; a folder without it is half a download.
		if _, err := os.Stat(filepath.Join(folder, "complete")); err != nil {
			return "", fmt.Errorf("%w (looked in %s)", ErrNoEngine, folder)
		}
		path = filepath.Join(folder, "libchdb.so")
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("%w (looked at %s)", ErrNoEngine, path)
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("the engine library %s is not a file", path)
	}
	return filepath.Abs(path)
}

// cacheFolder is the same folder as in deploy/embedded/fetch.sh.
func cacheFolder() (string, error) {
	if dir := os.Getenv("TOLLWAY_CACHE"); dir != "" {
		return dir, nil
	}
	if dir := os.Getenv("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "tollway"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the cache folder: %w", err)
	}
	return filepath.Join(home, ".cache", "tollway"), nil
}
