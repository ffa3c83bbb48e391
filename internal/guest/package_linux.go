package guest

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"path"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// ReadPackage reads what a Debian package has of a kernel into memory. It makes no folder, of which something could stay when
// ctlab is killed: dpkg-deb writes a tar archive, and what is wanted of that goes into a zip archive, which is a file system.
func ReadPackage(ctx context.Context, file string) (fs.FS, error) {
	ctx, kill := context.WithCancel(ctx)
	defer kill()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", file)
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	runtime.LockOSThread() // dpkg-deb ends with the thread that started it
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	files, notRead := kernelFiles(out)
	if notRead != nil {
		kill()
	}
	ended := cmd.Wait()
	said := strings.TrimSpace(stderr.String())
	switch {
	case notRead == nil && ended == nil:
		return files, nil
	case said != "": // it knows best
		return nil, fmt.Errorf("dpkg-deb --fsys-tarfile %s: %s", file, said)
	case notRead != nil:
		return nil, fmt.Errorf("read package %s: %w", file, notRead)
	}
	return nil, fmt.Errorf("dpkg-deb --fsys-tarfile %s: %w", file, ended)
}

// packageMax bounds what is kept of a package. The larger ones of Debian have some 400 MB of modules.
const packageMax = 1 << 30

// kernelFiles keeps images and modules of a tar archive.
func kernelFiles(r io.Reader) (fs.FS, error) {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if h.Typeflag != tar.TypeReg || !ofKernel(name) {
			continue
		}
		if h.Size > packageMax-int64(b.Len()) {
			return nil, fmt.Errorf("more than %d MiB", packageMax>>20)
		}
		w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		if err != nil {
			return nil, err
		}
		if _, err := io.Copy(w, t); err != nil {
			return nil, err
		}
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
}

func ofKernel(name string) bool {
	return slices.ContainsFunc([]string{"boot/vmlinuz-", "lib/modules/", "usr/lib/modules/"}, func(p string) bool { return strings.HasPrefix(name, p) })
}
