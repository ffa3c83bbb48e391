// Ctlab is a lab tool for connection tracking: it plays a network lab on the kernel and checks the
// kernel's conntrack table, field by field, against a userspace model.
//
// Output rules: stdout carries the report and nothing else; progress and errors go to stderr; messages
// begin with "ctlab:", in lower case, without a full stop.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"ctlab/lab"
)

// Exit codes, as the README lists them.
const (
	exitPass         = 0
	exitFail         = 1
	exitBadInput     = 2
	exitCannotRun    = 3
	exitSkipped      = 4
	exitBroken       = 5
	exitInconclusive = 6
	exitInterrupted  = 130
)

// exitError carries an exit code out of a command; a nil Err has been reported already.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func exit(code int, err error) error {
	if code == exitPass {
		return nil
	}
	return &exitError{code, err}
}

func main() {
	firstProcess()
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// interrupts are the signals that end a run early, with a report of what there was.
func interrupts() []os.Signal { return []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP} }

// run is main without the process: it returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), interrupts()...)
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitPass
	}
	code := exitBadInput // what cobra itself refuses: unknown commands and flags
	var ee *exitError
	if errors.As(err, &ee) {
		code, err = ee.code, ee.err
	}
	if err != nil {
		fmt.Fprintln(stderr, "ctlab:", escapeLines(err.Error()))
	}
	return code
}

// escapeLines keeps what an argument, a file or another program put into a message from writing to the
// terminal.
func escapeLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = lab.Escape(l)
	}
	return strings.Join(lines, "\n")
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "ctlab",
		Short: "reproduce connection tracking bugs, and check the kernel against a model",
		Long: `ctlab plays network labs: it builds namespaces, veth pairs and iptables DNAT VIPs from YAML, runs a DNS
server and clients with fixed source ports, restarts the server, and checks the kernel's conntrack table,
field by field, against a userspace model that is driven by the recorded inputs alone.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(flagError)
	root.PersistentFlags().Bool("no-color", false, "plain text, also on a terminal (as with NO_COLOR)")
	root.AddCommand(newRun(), newPredict(), newCompare(), newCheck(), newExplain(), newReplay(), newLabs(), newSchema(), newDoctor(), newFuzz(), newVM(), newVersion())
	return root
}
