//go:build linux

package program

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// initName is the name by which this program knows that it is to be an init.
const initName = "ctlab-init"

// init lets every binary that can start an init be one: ctlab, and the tests. It is here, and not a call in main that
// could be forgotten, because a test binary that does not become an init would run its tests instead.
func init() {
	if len(os.Args) > 0 && os.Args[0] == initName {
		os.Exit(beInit())
	}
}

// initConfig is what an init is told.
type initConfig struct{ Etc, Files map[string]string }

// initReady is its answer, when it has set itself up.
type initReady struct{ Dir, Error string }

// beInit is the whole life of an init: it sets up its mount namespace and reaps what is left to it until the pipe that is
// its standard input ends. Signals are not for it: as the first process of a namespace only SIGKILL from outside ends it,
// but for Go's own handlers.
func beInit() int {
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	orphans := make(chan os.Signal, 1)
	signal.Notify(orphans, unix.SIGCHLD)
	in := json.NewDecoder(os.Stdin)
	var c initConfig
	if err := in.Decode(&c); err != nil {
		return 1
	}
	dir, err := c.mount()
	ready := initReady{Dir: dir}
	if err != nil {
		ready.Error = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(ready); err != nil || ready.Error != "" {
		return 1
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	for {
		select {
		case <-ended:
			return 0
		case <-orphans:
			reap()
		}
	}
}

// reap waits for all children that have ended.
func reap() {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if pid <= 0 && !errors.Is(err, syscall.EINTR) {
			return
		}
	}
}

// mount makes the mount namespace the program's: nothing of it reaches another one. A file system in memory, on a folder
// where it hides nothing, holds the program's files and those that it finds below /etc.
func (c initConfig) mount() (dir string, err error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return "", fmt.Errorf("make mounts private: %w", err)
	}
	place, err := emptyFolder()
	if err != nil {
		return "", err
	}
	if err := unix.Mount("ctlab", place, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=64m"); err != nil {
		return "", fmt.Errorf("mount a file system in memory on %s: %w", place, err)
	}
	etc := filepath.Join(place, "etc")
	if err := write(etc, c.Etc); err != nil {
		return "", err
	}
	for name := range c.Etc {
		at := filepath.Join("/etc", name)
		if _, err := os.Stat(at); err != nil {
			continue // there is none to be replaced
		}
		if err := unix.Mount(filepath.Join(etc, name), at, "", unix.MS_BIND, ""); err != nil {
			return "", fmt.Errorf("mount over %s: %w", at, err)
		}
	}
	if len(c.Files) == 0 {
		return "", nil
	}
	dir = filepath.Join(place, "files")
	return dir, write(dir, c.Files)
}

// write makes a folder with files.
func write(dir string, files map[string]string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// emptyFolder is a folder on which something can be mounted without hiding anything.
func emptyFolder() (string, error) {
	candidates := []string{"/mnt", "/media", "/srv"}
	for _, dir := range candidates {
		if entries, err := os.ReadDir(dir); err == nil && len(entries) == 0 {
			return dir, nil
		}
	}
	return "", fmt.Errorf("none of %v is an empty folder, on which a program's files could be put", candidates)
}
