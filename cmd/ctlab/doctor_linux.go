package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"syscall"

	"ctlab/lab/live"
)

// examine tries everything, as root or, like run, again in a user namespace.
func examine(ctx context.Context) ([]finding, error) {
	var cannot *exitError
	if err := able(); errors.As(err, &cannot) && cannot.code == exitCannotRun && cannot.err != nil {
		return withoutPrivileges(cannot.err), nil
	} else if err != nil {
		return nil, err // it was examined in a user namespace
	}
	found := []finding{privileges(), userNamespaces()}
	for _, f := range live.Examine(ctx) {
		found = append(found, finding{f.What, string(f.State), f.Detail, f.For, f.Mend})
	}
	return found, ctx.Err()
}

// withoutPrivileges is what can be said where nothing can be tried.
func withoutPrivileges(why error) []finding {
	found := []finding{{What: "privileges", State: string(live.Missing), For: "to make the nodes of a lab", Detail: why.Error(), Mend: "sudo ctlab doctor"}}
	for _, f := range live.ExaminePrograms() {
		found = append(found, finding{f.What, string(f.State), f.Detail, f.For, f.Mend})
	}
	return found
}

func privileges() finding {
	f := finding{What: "privileges", State: string(live.Works), For: "to make the nodes of a lab", Detail: "root"}
	if live.InUserNamespace() {
		f.Detail = "an ordinary user, root in a user namespace"
	}
	return f
}

// userNamespaces tries to make one, as an ordinary user would: root may, where others may not.
func userNamespaces() finding {
	f := finding{What: "user namespaces", State: string(live.Works), For: "to run labs as an ordinary user"}
	if live.InUserNamespace() {
		f.Detail = "can be made"
		return f
	}
	err := asNobody()
	if f.Detail = "can be made"; err != nil {
		f.State, f.Detail, f.Mend = string(live.Absent), err.Error(), userNamespaceMend(err)
	}
	return f
}

// asNobody makes a user namespace with a network namespace as an ordinary user.
func asNobody() error {
	id := uint32(65534)
	if u, err := user.Lookup("nobody"); err == nil {
		fmt.Sscan(u.Uid, &id)
	}
	cmd := exec.Command("unshare", "--user", "--net", "true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: id, Gid: id}}
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}
