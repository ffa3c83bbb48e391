//go:build linux

package labs_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"ctlab/lab"
	"ctlab/lab/live"
	"ctlab/lab/play"
)

// BenchmarkOverhead holds what a run costs beside its waits against shell scripts that do the same work without any
// traffic. All are run in turn, so that what else the machine does is shared; only the ratios mean something elsewhere.
//
//	sudo go test ./labs -run xxx -bench Overhead -benchtime 20x
func BenchmarkOverhead(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root")
	}
	for _, backend := range []string{"nft", "legacy"} {
		b.Run(backend, func(b *testing.B) {
			var own, tuned, plain time.Duration
			for b.Loop() {
				own += overheadOf(b, backend)
				tuned += scripted(b, "tuned.sh", backend)
				plain += scripted(b, "plain.sh", backend)
			}
			n := float64(b.N) * float64(time.Millisecond)
			b.ReportMetric(float64(own)/n, "ctlab-ms")
			b.ReportMetric(float64(tuned)/n, "tuned-script-ms")
			b.ReportMetric(float64(plain)/n, "plain-script-ms")
			b.ReportMetric(float64(own)/float64(tuned), "of-tuned")
			b.ReportMetric(float64(own)/float64(plain), "of-plain")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// The scripts do what they say, also where nobody times them.
func TestOverheadScripts(t *testing.T) {
	needRoot(t)
	scripted(t, "tuned.sh", "nft")
	scripted(t, "plain.sh", "legacy")
}

func overheadOf(b *testing.B, backend string) time.Duration {
	b.Helper()
	l, err := lab.ReadFile("testdata/overhead/lab.yaml", "")
	if err != nil {
		b.Fatal(err)
	}
	g := live.New(l)
	g.Backend = backend
	r := lab.Run(context.Background(), l, play.New(l, g), lab.Options{})
	if r.Verdict() != lab.Pass {
		b.Fatalf("%s: %v\n%s", r.Verdict(), r.Err, text(b, r))
	}
	return r.Own()
}

// scripted runs a script in network and mount namespaces of its own.
func scripted(tb testing.TB, script, backend string) time.Duration {
	tb.Helper()
	cmd := exec.Command("unshare", "--net", "--mount", "sh", "testdata/overhead/"+script, backend)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	begin := time.Now()
	if err := cmd.Run(); err != nil {
		tb.Fatalf("%s: %v\n%s", script, err, out.String())
	}
	return time.Since(begin)
}
