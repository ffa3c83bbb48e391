package guest

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// roleWord is the word on the kernel's command line that makes ctlab the guest's first process. The kernel hands over to that
// process what comes after "--" (Documentation/admin-guide/kernel-parameters.rst).
const roleWord = "ctlab-guest"

// portName is the name of the virtio port to which results are written.
const portName = "ctlab.result"

// readyLine is what the guest writes to the kernel's log just before its Hello: what the console shows after it has happened to a guest that was up.
const readyLine = "ctlab: the guest is ready"

// IsInit reports whether this process is the first one of a guest.
func IsInit() bool {
	return os.Getpid() == 1 && slices.Contains(os.Args[1:], roleWord) // beside words that the kernel does not know
}

// Init is what the guest's first process does: it mounts what programs expect, loads modules, runs ctlab and sends what comes of
// that to the port, and powers the machine off. It does not return. What goes wrong before there is a port is on the console.
func Init() {
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, "ctlab guest:", err)
	}
	syscall.Sync()
	err := syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	fmt.Fprintln(os.Stderr, "ctlab guest: power off:", err)
	os.Exit(1) // a panic of the kernel, which ends the machine
}

func serve() error {
	for _, m := range []struct{ dir, kind string }{{"/proc", "proc"}, {"/sys", "sysfs"}, {"/dev", "devtmpfs"}} {
		if err := syscall.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil && !errors.Is(err, syscall.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	b, err := os.ReadFile(jobFile)
	if err != nil {
		return err
	}
	var job Job
	if err := json.Unmarshal(b, &job); err != nil {
		return fmt.Errorf("%s: %w", jobFile, err)
	}
	if err := seedRandom(job.Seed); err != nil {
		return err
	}
	hello := Hello{Version: Version, Release: kernelRelease()}
	for _, file := range job.Modules {
		if err := insert(file); err != nil {
			hello.Refused = append(hello.Refused, fmt.Sprintf("%s: %v", moduleName(file), err))
			continue
		}
		hello.Modules++
	}
	port, err := openPort()
	if err != nil {
		return err
	}
	defer port.Close()
	if err := os.WriteFile("/dev/kmsg", []byte("<4>"+readyLine), 0); err != nil {
		return err
	}
	s := &sender{w: port}
	s.json(KindHello, hello)
	s.json(KindEnd, s.run(job))
	return s.err
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// seedRandom gives the kernel's random numbers a beginning. A guest without a source of its own would have them seconds after
// its boot, and whoever asks for some (getrandom) waits until then: the first query of the first lab did.
func seedRandom(seed []byte) error {
	f, err := os.OpenFile("/dev/random", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	// struct rand_pool_info of include/uapi/linux/random.h: how many bits of entropy, how many bytes, the bytes.
	info := binary.NativeEndian.AppendUint32(nil, uint32(8*len(seed)))
	info = binary.NativeEndian.AppendUint32(info, uint32(len(seed)))
	info = append(info, seed...)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&info[0]))); errno != 0 {
		return os.NewSyscallError("ioctl RNDADDENTROPY", errno)
	}
	return nil
}

// insert loads a module. One that is there already does no harm.
func insert(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, syscall.EEXIST) {
		return err
	}
	return nil
}

// portTries bounds how often the port is looked for: the host announces it a moment after its driver is loaded.
const portTries = 1000

func openPort() (*os.File, error) {
	for range portTries {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if b, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(b)) == portName {
				return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(name)), os.O_WRONLY, 0)
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, fmt.Errorf("no virtio port with the name %s", portName)
}

// sender sends frames. After an error it sends nothing more.
type sender struct {
	mu  sync.Mutex
	w   io.Writer
	err error
}

func (s *sender) send(kind Kind, b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = WriteFrame(s.w, kind, b)
	}
	return s.err
}

func (s *sender) json(kind Kind, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		b = []byte("{}") // of these two types it cannot be
	}
	_ = s.send(kind, b) // it is kept in s.err
}

// stream is the output of ctlab as frames of one kind.
type stream struct {
	*sender
	kind Kind
}

func (s stream) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	return len(b), s.send(s.kind, b)
}

// alivePeriod is how often the guest says that it is there.
const alivePeriod = time.Second

// run runs ctlab with the arguments of the job, and sends its output and its files.
func (s *sender) run(job Job) End {
	cmd := exec.Command("/proc/self/exe", job.Args...)
	cmd.Args[0] = "ctlab"
	cmd.Dir = job.Dir
	cmd.Env = []string{"PATH=" + strings.Join(searchedFolders(), ":"), "LC_ALL=C", "HOME=/", "TMPDIR=/tmp"}
	cmd.Stdout, cmd.Stderr = stream{s, KindStdout}, stream{s, KindStderr}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { s.stayAlive(ctx) })
	err := cmd.Run()
	stop()
	wg.Wait()
	var ee *exec.ExitError
	if err != nil && (!errors.As(err, &ee) || ee.ExitCode() < 0) {
		return End{Exit: -1, Error: err.Error()}
	}
	end := End{Exit: cmd.ProcessState.ExitCode()}
	for _, f := range []struct {
		wanted bool
		name   string
		kind   Kind
	}{{job.JUnit, JUnitFile, KindJUnit}, {job.Trace, TraceFile, KindTrace}} {
		if !f.wanted {
			continue
		}
		b, err := os.ReadFile(f.name)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // ctlab may have ended before it made them
			return End{Exit: -1, Error: err.Error()}
		}
		if len(b) > 0 {
			_ = s.send(f.kind, b) // it is kept in s.err
		}
	}
	return end
}

func (s *sender) stayAlive(ctx context.Context) {
	tick := time.NewTicker(alivePeriod)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			_ = s.send(KindAlive, nil) // it is kept in s.err
		case <-ctx.Done():
			return
		}
	}
}
