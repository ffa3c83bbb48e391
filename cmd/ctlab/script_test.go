package main

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The test binary is ctlab: scripts run it as the command ctlab.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"ctlab": main})
}

// TestScripts plays testdata/script. "exits CODE COMMAND..." demands an exact exit code; [root] guards what
// needs the kernel, and in CI a test that needs it and cannot have it fails.
func TestScripts(t *testing.T) {
	if os.Getenv("CI") != "" && os.Geteuid() != 0 {
		t.Fatal("the scripts need root in CI")
	}
	traces, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(e *testscript.Env) error {
			e.Setenv("TRACES", traces+"/../../checks/trace/testdata")
			e.Setenv("LABS", traces+"/../../labs")
			return nil
		},
		Condition: func(cond string) (bool, error) { return cond == "root" && os.Geteuid() == 0, nil },
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": func(ts *testscript.TestScript, neg bool, args []string) {
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				got := 0
				var ee *exec.ExitError
				if err := ts.Exec(args[1], args[2:]...); errors.As(err, &ee) {
					got = ee.ExitCode()
				} else {
					ts.Check(err)
				}
				if got != want {
					ts.Fatalf("exit %d, want %d", got, want)
				}
			},
		},
	})
}
