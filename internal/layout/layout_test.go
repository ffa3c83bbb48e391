// Package layout holds the test of who may import whom.
package layout

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// allowed lists, for each package, what it may import: packages of ctlab, and from elsewhere whole modules
// by the beginning of their path. The standard library is always allowed, but not to pure packages where
// it does I/O. A package that is not listed here is a mistake too.
var allowed = map[string]struct {
	ours, others []string
	pure         bool
}{
	"internal/netns":   {others: []string{"github.com/vishvananda/netns"}},
	"internal/program": {ours: []string{"internal/netns"}, others: []string{"golang.org/x/sys"}},
	"internal/queue": {ours: []string{"checks/conntrack", "internal/netns"},
		others: []string{"golang.org/x/sys", "github.com/google/nftables", "github.com/mdlayher/netlink"}},
	"internal/layout":  {},
	"checks/conntrack": {pure: true},
	"checks/model":     {ours: []string{"checks/conntrack"}, pure: true},
	"checks":           {ours: []string{"checks/conntrack"}, pure: true},
	"checks/trace":     {ours: []string{"checks/conntrack", "checks/model"}, pure: true},
	"checks/kernel":    {ours: []string{"checks/conntrack", "internal/netns"}, others: []string{"golang.org/x/sys"}},
	"checks/wire":      {ours: []string{"checks/conntrack"}, pure: true},
	"checks/observe":   {ours: []string{"checks/conntrack", "checks/wire", "internal/netns"}, others: []string{"golang.org/x/sys", "github.com/vishvananda/netlink", "github.com/cilium/ebpf", "github.com/google/nftables", "github.com/mdlayher/netlink"}},
	"topology":         {ours: []string{"internal/netns"}, others: []string{"golang.org/x/sys", "github.com/vishvananda/netlink"}},
	"topology/service": {ours: []string{"checks/conntrack"}, pure: true},
	"dnsserver":        {others: []string{"github.com/miekg/dns"}},
	"traffic":          {others: []string{"github.com/miekg/dns"}},
	"lab":              {ours: []string{"checks", "checks/conntrack", "checks/model", "checks/trace", "topology/service"}, others: []string{"gopkg.in/yaml.v3"}},
	"lab/report":       {ours: []string{"lab", "checks", "checks/conntrack", "checks/model", "checks/trace", "topology/service"}},
	"lab/play":         {ours: []string{"lab", "checks", "checks/conntrack", "checks/model", "topology/service"}, pure: true},
	"lab/sim":          {ours: []string{"lab", "lab/play", "checks", "checks/conntrack", "checks/model", "checks/trace", "topology/service"}},
	"lab/live": {ours: []string{"lab", "lab/play", "topology", "topology/service", "dnsserver", "traffic", "checks", "checks/conntrack", "checks/model",
		"checks/trace", "checks/kernel", "checks/observe", "checks/wire", "internal/netns", "internal/program", "internal/queue"}, others: []string{"golang.org/x/sys"}},
	"lab/fuzz": {ours: []string{"topology", "checks/conntrack", "checks/model", "checks/trace", "checks/kernel", "checks/observe", "checks/wire", "internal/netns", "internal/queue"},
		others: []string{"golang.org/x/sys", "github.com/vishvananda/netlink"}},
	"internal/story":  {},
	"internal/mutate": {others: []string{"golang.org/x/tools/go"}},
	"internal/guest":  {others: []string{"golang.org/x/sys"}},
	"labs":            {},
	"cmd/ctlab": {ours: []string{"lab", "lab/live", "lab/sim", "lab/play", "lab/report", "lab/fuzz", "labs", "checks/model", "checks/trace", "topology", "internal/guest", "internal/program"},
		others: []string{"github.com/spf13/cobra", "github.com/spf13/pflag", "golang.org/x/sys/unix"}},
}

// impure are packages of the standard library that pure ones must do without.
var impure = []string{"os", "net", "os/exec", "syscall", "math/rand", "math/rand/v2", "unsafe", "runtime"}

type pkg struct {
	ImportPath string
	Imports    []string
	Standard   bool
}

func TestImports(t *testing.T) {
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, "ctlab/")
		rule, ok := allowed[name]
		if !ok {
			t.Errorf("package %s is not in the table", name)
			continue
		}
		for _, imp := range p.Imports {
			ours, own := strings.CutPrefix(imp, "ctlab/")
			switch {
			case own && !slices.Contains(rule.ours, ours):
				t.Errorf("%s must not import %s", name, imp)
			case own:
			case strings.Contains(strings.SplitN(imp, "/", 2)[0], "."):
				if !slices.ContainsFunc(rule.others, func(m string) bool { return imp == m || strings.HasPrefix(imp, m+"/") }) {
					t.Errorf("%s must not import %s", name, imp)
				}
			case rule.pure && slices.Contains(impure, imp):
				t.Errorf("%s is pure and must not import %s", name, imp)
			}
		}
	}
}

func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "ctlab/...")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(out); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return pkgs
}
