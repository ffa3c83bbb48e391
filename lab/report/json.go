package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"unicode/utf8"

	"ctlab/checks/conntrack"
	"ctlab/checks/trace"
	"ctlab/lab"
)

// DocumentVersion is raised when a reader of the older form would misread the newer one; new fields alone
// do not raise it.
const DocumentVersion = 1

// Document is what --json prints. docs/result.schema.json describes it, docs/json.md explains it; a test
// holds the three together. Names are those of the lab language. Times end in -ns (nanoseconds, counted
// from the start of the first step where they are moments) or -seconds. Lists are never null; what has no
// value is left out.
type Document struct {
	Version  int           `json:"ctlab"`     // version of the document
	Command  string        `json:"command"`   // run, predict or compare
	Runs     []jsonRun     `json:"runs"`      // each lab and variant that was played, in the order of playing
	Compared []jsonCompare `json:"compared"`  // compare: a table a lab
	NotBegun []string      `json:"not-begun"` // labs and variants (LAB/VARIANT) that an interrupt came before
	Exit     int           `json:"exit"`      // the exit code that ctlab ends with
}

type jsonRun struct {
	Lab     string         `json:"lab"`                     // name
	File    string         `json:"file"`                    // as it was given: a path, or the name of a bundled lab
	Variant string         `json:"variant,omitempty"`       // left out for the lab as it is
	About   string         `json:"about,omitempty"`         // what the variant, or the lab, is about
	Verdict string         `json:"verdict"`                 // PASS: all wants met, kernel and model agree; FAIL: not so; INCONCLUSIVE: evidence was lost; SKIPPED: this machine lacks what the lab needs
	Error   string         `json:"error,omitempty"`         // why the run ended early, or what went wrong when the network was taken down
	Setting jsonSetting    `json:"setting"`                 // where it was played
	Wants   jsonWants      `json:"wants"`                   // how many there are
	Steps   []jsonStep     `json:"steps"`                   // those that were played
	Final   []jsonSnapshot `json:"final"`                   // each tracked node when the steps were over
	Model   []jsonModel    `json:"model"`                   // the comparison of kernel and model on each tracked node
	Why     string         `json:"skipped,omitempty"`       // why the lab was not played, and what would mend that
	Servers []jsonRan      `json:"servers"`                 // servers that are programs, in the order in which they ended
	Skipped string         `json:"model-skipped,omitempty"` // why the lab leaves the model out
	Margins []jsonMargin   `json:"margins"`                 // what came within 50 ms of a boundary, so that a run may see it on the other side
	Wall    int64          `json:"wall-ns"`                 // real time from building to the end of taking down
	Waits   int64          `json:"waits-ns"`                // the part of it in which the script waited
}

type jsonSetting struct {
	Simulated bool     `json:"simulated"`               // predicted on virtual time; nothing was asked of a kernel
	Seed      uint64   `json:"seed,omitempty"`          // of what is free, in a prediction
	Kernel    string   `json:"kernel,omitempty"`        // release
	Iptables  string   `json:"iptables,omitempty"`      // version
	Profile   string   `json:"profile,omitempty"`       // the kernel that the model follows
	Ordinary  bool     `json:"ordinary-user,omitempty"` // in a user namespace, not as root of the machine
	Limits    []string `json:"limits,omitempty"`        // what the recording had to do without
	Nodes     int      `json:"nodes"`                   // how many
	Build     int64    `json:"build-ns"`                // what building took
}

type jsonWants struct {
	Met int `json:"met"` // how many were met
	All int `json:"all"` // how many there are
}

type jsonStep struct {
	Index     int            `json:"index"`                // counts from 1
	Name      string         `json:"name,omitempty"`       // as the lab has it
	Kind      string         `json:"kind"`                 // query, restart, check, ...
	Title     string         `json:"title"`                // kind and what it acts on
	Position  string         `json:"position"`             // FILE:LINE:COLUMN
	Began     int64          `json:"began-ns"`             // since the first step began
	Ended     int64          `json:"ended-ns"`             // since the first step began
	OK        bool           `json:"ok"`                   // every want was met
	NotPlayed string         `json:"not-played,omitempty"` // why it could not be played; its wants are not judged
	Attempts  []jsonAttempt  `json:"attempts"`             // requests of clients
	Restarted *jsonRestarted `json:"restarted,omitempty"`  // what a restart did
	Deleted   []jsonDeleted  `json:"deleted"`              // entries that a cleanup or a conntrack step deleted
	Program   *jsonProgram   `json:"program,omitempty"`    // what an exec step ran
	Programs  []jsonRan      `json:"programs"`             // what clients ran that are programs
	Packets   []jsonPacket   `json:"packets"`              // packets that were put on wires
	Snapshots []jsonSnapshot `json:"snapshots"`            // tables that were read for a check or for wants
	Wants     []jsonWant     `json:"wants"`                // each with what there was
}

type jsonAttempt struct {
	Client     string    `json:"client"`           // name
	Number     int       `json:"number"`           // of the client's requests in this run, from 1
	Control    bool      `json:"control"`          // asked from a fresh port beside the request
	Background bool      `json:"background"`       // of a started client
	Node       string    `json:"node,omitempty"`   // the tracked node on its way
	Flow       jsonTuple `json:"flow"`             // original tuple
	At         int64     `json:"at-ns"`            // when it was sent
	Took       int64     `json:"took-ns"`          // until its outcome
	Class      string    `json:"class"`            // what became of it
	By         string    `json:"by,omitempty"`     // the node of the server that answered
	From       string    `json:"from,omitempty"`   // wrong-source: who answered
	Error      string    `json:"error,omitempty"`  // text of an error
	Before     *jsonSeen `json:"before,omitempty"` // the flow's entry just before sending
	After      *jsonSeen `json:"after,omitempty"`  // and after the outcome
}

type jsonTuple struct {
	Line     string `json:"line"`               // the one line form
	Protocol string `json:"protocol"`           // name or number
	Src      string `json:"src"`                // address
	SrcPort  uint16 `json:"src-port,omitempty"` // of protocols with ports; the id of an ICMP query
	Dst      string `json:"dst"`                // address
	DstPort  uint16 `json:"dst-port,omitempty"` // of protocols with ports
}

type jsonSeen struct {
	At    int64     `json:"at-ns"`            // when it was read
	Stale bool      `json:"stale"`            // the present rules could not give its first packet this binding
	Age   *int64    `json:"age-ns,omitempty"` // since the flow's last packet was sent
	Entry jsonEntry `json:"entry"`            // as it was read
}

type jsonEntry struct {
	Line    string      `json:"line"`                      // the one line form, which labs read
	Orig    jsonTuple   `json:"orig"`                      // original tuple
	Reply   jsonTuple   `json:"reply"`                     // reply tuple, in its own direction
	Status  []string    `json:"status"`                    // status bits, as in labs
	State   string      `json:"state,omitempty"`           // of TCP
	Timeout *uint32     `json:"timeout-seconds,omitempty"` // time left, in whole seconds as the kernel has it
	Mark    *uint32     `json:"mark,omitempty"`            // of the entry
	Zone    *uint16     `json:"zone,omitempty"`            // of both directions
	ID      *uint32     `json:"id,omitempty"`              // of ctnetlink
	Packets *jsonCounts `json:"packets,omitempty"`         // counted by accounting
	Bytes   *jsonCounts `json:"bytes,omitempty"`           // whole IP packets
}

type jsonCounts struct {
	Orig  uint64 `json:"orig"`  // original direction
	Reply uint64 `json:"reply"` // reply direction
}

type jsonRestarted struct {
	Server   string      `json:"server"`          // name
	From     string      `json:"from"`            // node
	To       string      `json:"to"`              // node
	Death    string      `json:"death,omitempty"` // process, address, route, drop or reuse
	Reuse    string      `json:"reuse,omitempty"` // the node that has the address now
	Services []string    `json:"services"`        // whose rules were replaced
	Cleanup  jsonCleanup `json:"cleanup"`         // of the last of these services
}

type jsonCleanup struct {
	Mode  string `json:"mode,omitempty"` // none, legacy, reconcile-1.32 or reconcile-current
	Order string `json:"order"`          // rules-first or cleanup-first
	Delay int64  `json:"delay-ns"`       // between the two
}

type jsonDeleted struct {
	Node    string    `json:"node"`    // whose table
	Healthy bool      `json:"healthy"` // the rules could still give its binding: harm was done
	Entry   jsonEntry `json:"entry"`   // as it was
}

type jsonRan struct {
	Name    string      `json:"name"`    // the client's or the server's
	Node    string      `json:"node"`    // where it ran
	At      int64       `json:"at-ns"`   // when it began
	Took    int64       `json:"took-ns"` // how long it ran
	Program jsonProgram `json:"program"` // what came of it
}

type jsonProgram struct {
	Exit   int    `json:"exit"`   // exit code
	Stdout string `json:"stdout"` // what it wrote
	Stderr string `json:"stderr"` // what it wrote
}

type jsonPacket struct {
	Wire      string       `json:"wire"`                // where it was put
	Node      string       `json:"node"`                // the tracked node at the other end
	At        int64        `json:"at-ns"`               // when
	Line      string       `json:"line"`                // the packet in the one line form
	State     string       `json:"ct,omitempty"`        // ctinfo, invalid or untracked, as the model says; left out where nothing is tracked
	Left      []jsonPassed `json:"left"`                // what left because of it: itself, or errors about it
	Dropped   string       `json:"dropped,omitempty"`   // where and why, as the model says
	Delivered string       `json:"delivered,omitempty"` // what the node's own stack got of it
	Entry     *jsonSeen    `json:"entry,omitempty"`     // its entry, where a want is about it
}

type jsonPassed struct {
	At     int64  `json:"at-ns"`  // when
	Device string `json:"device"` // of the tracked node
	Line   string `json:"line"`   // the packet in the one line form
}

type jsonSnapshot struct {
	Node     string            `json:"node"`           // name
	At       int64             `json:"at-ns"`          // when
	Entries  []jsonSeen        `json:"entries"`        // the whole table
	Hits     map[string]uint64 `json:"rule-hits"`      // packets by rule: SERVICE/BACKEND, SERVICE/reject, or names of the lab's own rules
	Counters map[string]uint32 `json:"counters"`       // of conntrack -S, since the node was made
	Since    map[string]uint32 `json:"counters-since"` // the same, since the last check of the node or since the step began
	Events   []jsonEvent       `json:"events"`         // since the node was made
}

type jsonEvent struct {
	Kind  string    `json:"kind"`  // new, update or destroy
	Entry jsonEntry `json:"entry"` // as the event has it
}

type jsonWant struct {
	Position string    `json:"position"`       // FILE:LINE:COLUMN
	Want     string    `json:"want"`           // as the lab says it
	Got      string    `json:"got"`            // what there was
	OK       bool      `json:"ok"`             // it was met
	Near     *jsonNear `json:"near,omitempty"` // for an entry that is missing: the nearest one
}

type jsonNear struct {
	Entry   jsonEntry `json:"entry"`   // the nearest one
	Differs []string  `json:"differs"` // in which words
}

type jsonModel struct {
	Node        string           `json:"node"`        // name
	Profile     string           `json:"profile"`     // the kernel that the model follows
	Verdict     string           `json:"verdict"`     // same, different or inconclusive
	Reads       int              `json:"reads"`       // entries read, and reads that found nothing
	Fields      int              `json:"fields"`      // fields compared
	Free        map[string]int   `json:"free"`        // choices that were left to what was seen, by kind
	Differences []jsonDifference `json:"differences"` // each field in which they differ
	Lost        []string         `json:"lost"`        // evidence that was lost
}

type jsonDifference struct {
	At     int64  `json:"at-ns"`         // when it was seen
	What   string `json:"what"`          // an entry, a packet, an event, a counter
	Field  string `json:"field"`         // name
	Kernel string `json:"kernel"`        // the kernel's side
	Model  string `json:"model"`         // the model's side
	Why    string `json:"why,omitempty"` // the model's reason
}

type jsonMargin struct {
	At   int64  `json:"at-ns"`  // when
	Node string `json:"node"`   // name
	What string `json:"what"`   // the question that was decided
	Off  int64  `json:"off-ns"` // below 0: before the boundary
}

type jsonCompare struct {
	Lab       string    `json:"lab"`               // name
	File      string    `json:"file"`              // as it was given
	About     string    `json:"about,omitempty"`   // what the lab is about
	Simulated bool      `json:"simulated"`         // predicted
	Kernel    string    `json:"kernel,omitempty"`  // release
	Profile   string    `json:"profile,omitempty"` // the kernel that the model follows
	Took      int64     `json:"took-ns"`           // real time of all runs, and of reading the lab
	Rows      []jsonRow `json:"rows"`              // the lab as it is comes first
}

type jsonRow struct {
	Variant   string    `json:"variant,omitempty"` // left out for the lab as it is
	About     string    `json:"about,omitempty"`   // what the variant is about
	Lost      int       `json:"lost"`              // requests without an answer; those of control clients do not count
	Sent      int       `json:"sent"`              // requests; those of control clients do not count
	Outage    int64     `json:"outage-ns"`         // the longest time in which a client had no answer
	ForGood   bool      `json:"for-good"`          // some client had none any more at the end
	Deleted   int       `json:"deleted"`           // entries, by cleanups and conntrack steps
	Harmed    int       `json:"harmed"`            // healthy ones among them
	Entry     string    `json:"entry"`             // where the entry of the first client's flow leads at the end
	Word      string    `json:"word"`              // healed, broken, refused, unreachable, not permitted, WRONG SERVER, N of M lost, harmed, unharmed, skipped, not run
	Verdict   string    `json:"verdict"`           // the run's
	Wants     jsonWants `json:"wants"`             // how many there are
	Agreement string    `json:"agreement"`         // of kernel and model
	Unclear   string    `json:"unclear,omitempty"` // why kernel and model were not compared in full
	NotPlayed int       `json:"not-played"`        // steps
	ByHand    bool      `json:"by-hand"`           // a conntrack step deleted entries; word is of the time before
	Error     string    `json:"error,omitempty"`   // why the run broke
	Skipped   string    `json:"skipped,omitempty"` // why it was not played, and what would mend that
}

// NewDocument makes the document of a command.
func NewDocument(command string, runs []*lab.Result, compared []Comparison, notBegun []string, exit int) Document {
	return Document{Version: DocumentVersion, Command: command, Runs: each(runs, newJSONRun), Compared: each(compared, newJSONCompare), NotBegun: each(notBegun, asString), Exit: exit}
}

// Write writes the document, indented, with a newline at the end. Control characters are escapes, also
// those that JSON would allow.
func (d Document) Write(w io.Writer) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(d); err != nil {
		return err
	}
	_, err := io.WriteString(w, controls.ReplaceAllStringFunc(b.String(), func(c string) string {
		r, _ := utf8.DecodeRuneInString(c)
		return fmt.Sprintf(`\u%04x`, r)
	}))
	return err
}

// controls are characters that JSON leaves as they are and that act on a terminal: C1, and marks that
// change the direction of text.
var controls = regexp.MustCompile(`[\x{7f}-\x{9f}\x{200e}\x{200f}\x{202a}-\x{202e}\x{2066}-\x{2069}\x{feff}]`)

// each makes a list that is never nil, since that would be null.
func each[A, B any](in []A, convert func(A) B) []B {
	out := []B{}
	for _, a := range in {
		out = append(out, convert(a))
	}
	return out
}

func asString[T ~string](s T) string { return string(s) }

// orEmpty is a map that is never nil, since that would be null.
func orEmpty[V any](m map[string]V) map[string]V {
	if m == nil {
		return map[string]V{}
	}
	return m
}

func newJSONRun(r *lab.Result) jsonRun {
	met, all := r.Wants()
	run := jsonRun{
		Lab: r.Lab.Name, File: r.Lab.File, Variant: r.Lab.Variant, About: about(r.Lab), Verdict: string(r.Verdict()),
		Setting: jsonSetting{Simulated: r.Setting.Simulated, Seed: r.Setting.Seed, Kernel: r.Setting.Kernel, Iptables: r.Setting.Iptables,
			Profile: r.Setting.Profile, Ordinary: r.Setting.Ordinary, Limits: r.Setting.Limits, Nodes: r.Setting.Nodes, Build: int64(r.Setting.Took)},
		Wants:   jsonWants{met, all},
		Steps:   each(r.Steps, newJSONStep),
		Final:   each(r.Evidence.Final, newJSONSnapshot),
		Model:   []jsonModel{},
		Skipped: r.Lab.SkipModel,
		Why:     r.Skipped,
		Servers: each(r.Evidence.Servers, func(p lab.Program) jsonRan {
			return jsonRan{p.Client, p.Node, int64(p.At), int64(p.Took), jsonProgram{p.Exit, p.Stdout, p.Stderr}}
		}),
		Margins: each(r.Evidence.Margins, func(m lab.Margin) jsonMargin { return jsonMargin{int64(m.At), m.Node, m.What, int64(m.Off)} }),
		Wall:    int64(r.Wall), Waits: int64(r.Evidence.Waits),
	}
	if !r.Setting.Simulated && r.Lab.SkipModel == "" {
		run.Model = each(r.Comparisons, newJSONModel)
	}
	run.Error = r.Problem()
	return run
}

func newJSONStep(s lab.StepResult) jsonStep {
	out := &s.Outcome
	step := jsonStep{
		Index: s.Step.Index, Name: s.Step.Name, Kind: string(s.Step.Kind), Title: s.Step.Title(), Position: s.Step.Pos.String(),
		Began: int64(out.Began), Ended: int64(out.Ended), OK: s.OK(), NotPlayed: out.NotPlayed,
		Attempts: each(out.Attempts, newJSONAttempt),
		Deleted: each(out.Deleted, func(d lab.Deleted) jsonDeleted {
			return jsonDeleted{d.Node, d.Healthy, newJSONEntry(&d.Entry)}
		}),
		Packets:   each(out.Sent, newJSONPacket),
		Snapshots: each(out.Snapshots, newJSONSnapshot),
		Wants:     each(s.Wants, newJSONWant),
	}
	if r := out.Restarted; r != nil {
		step.Restarted = &jsonRestarted{r.Server, r.From, r.To, string(r.Death), r.Reuse, each(r.Services, asString), newJSONCleanup(r.Cleanup)}
	}
	step.Programs = []jsonRan{}
	for _, p := range out.Programs {
		ran := jsonProgram{p.Exit, p.Stdout, p.Stderr}
		if p.Client == "" {
			step.Program = &ran
			continue
		}
		step.Programs = append(step.Programs, jsonRan{p.Client, p.Node, int64(p.At), int64(p.Took), ran})
	}
	return step
}

func newJSONPacket(s lab.Sent) jsonPacket {
	p := jsonPacket{Wire: s.Wire, Node: s.Node, At: int64(s.At), Line: s.Packet.Line(), Entry: seenOrNil(s.Entry),
		Left: each(s.Left(), func(l lab.Passed) jsonPassed { return jsonPassed{int64(l.At), l.Dev, l.Packet.Line()} })}
	if o := s.Outcome; o != nil {
		p.State, p.Dropped = o.CT, o.Dropped
		if o.Delivered != nil {
			p.Delivered = o.Delivered.Line()
		}
	}
	return p
}

func newJSONCleanup(c lab.Cleanup) jsonCleanup {
	order := "rules-first"
	if c.CleanupFirst {
		order = "cleanup-first"
	}
	return jsonCleanup{string(c.Mode), order, int64(c.Delay)}
}

func newJSONAttempt(a lab.Attempt) jsonAttempt {
	j := jsonAttempt{Client: a.Client, Number: a.Number, Control: a.Control, Background: a.Background, Node: a.Node, Flow: newJSONTuple(a.Tuple),
		At: int64(a.At), Took: int64(a.Took), Class: string(a.Class), By: a.By, Error: a.Err, Before: seenOrNil(a.Before), After: seenOrNil(a.After)}
	if a.From.IsValid() {
		j.From = a.From.String()
	}
	return j
}

func seenOrNil(s *lab.Seen) *jsonSeen {
	if s == nil {
		return nil
	}
	j := newJSONSeen(*s)
	return &j
}

func newJSONSeen(s lab.Seen) jsonSeen {
	j := jsonSeen{At: int64(s.At), Stale: s.Stale, Entry: newJSONEntry(&s.Entry)}
	if s.Age >= 0 {
		age := int64(s.Age)
		j.Age = &age
	}
	return j
}

func newJSONTuple(t conntrack.Tuple) jsonTuple {
	return jsonTuple{t.Line(), conntrack.ProtocolName(t.Proto), t.Src.String(), t.SrcPort, t.Dst.String(), t.DstPort}
}

func newJSONEntry(e *conntrack.Entry) jsonEntry {
	j := jsonEntry{Line: e.String(), Orig: newJSONTuple(e.Orig), Reply: newJSONTuple(e.Reply), Status: each(e.Status.Words(), asString),
		Timeout: given(e, conntrack.HasTimeout, e.Timeout), Mark: given(e, conntrack.HasMark, e.Mark), Zone: given(e, conntrack.HasZone, e.Zone), ID: given(e, conntrack.HasID, e.ID),
		Packets: given(e, conntrack.HasCounters, jsonCounts{e.OrigCount.Packets, e.ReplyCount.Packets}),
		Bytes:   given(e, conntrack.HasCounters, jsonCounts{e.OrigCount.Bytes, e.ReplyCount.Bytes})}
	if e.Has(conntrack.HasTCP) {
		j.State = e.TCP.State.String()
	}
	return j
}

// given is a value that the entry carries, or nil: what was not given is not zero.
func given[T any](e *conntrack.Entry, f conntrack.Fields, v T) *T {
	if !e.Has(f) {
		return nil
	}
	return &v
}

func newJSONSnapshot(s lab.Snapshot) jsonSnapshot {
	return jsonSnapshot{s.Node, int64(s.At), each(s.Entries, newJSONSeen), orEmpty(s.Hits), orEmpty(s.Stats), orEmpty(s.Since),
		each(s.Events, func(e conntrack.Event) jsonEvent { return jsonEvent{string(e.Kind), newJSONEntry(&e.Entry)} })}
}

func newJSONWant(w lab.WantResult) jsonWant {
	j := jsonWant{Position: w.Pos.String(), Want: w.Want, Got: w.Got, OK: w.OK}
	if w.Near != nil {
		j.Near = &jsonNear{newJSONEntry(&w.Near.Entry.Entry), each(w.Near.Differs, asString)}
	}
	return j
}

func newJSONModel(c trace.Report) jsonModel {
	m := jsonModel{Node: c.Header.Node, Profile: c.Profile.Name, Verdict: string(c.Verdict()), Reads: c.Reads, Fields: c.Fields, Free: map[string]int{},
		Differences: each(c.Differences, func(d trace.Difference) jsonDifference {
			return jsonDifference{int64(d.Record.At), d.What, d.Field, d.Kernel, d.Model, d.Why}
		}), Lost: each(c.Lost, asString)}
	for kind, n := range c.Free {
		m.Free[string(kind)] = n
	}
	return m
}

func newJSONCompare(c Comparison) jsonCompare {
	return jsonCompare{c.Lab, c.File, c.About, c.Simulated, c.Kernel, c.Profile, int64(c.Took), each(c.Rows, func(r Row) jsonRow {
		return jsonRow{r.Variant, r.About, r.Lost, r.Sent, int64(r.Outage), r.ForGood, r.Deleted, r.Harmed, r.Entry, string(r.Word), string(r.Verdict),
			jsonWants{r.WantsMet, r.Wants}, string(r.Agreement), r.Unclear, r.NotPlayed, r.ByHand, r.Err, r.Skipped}
	})}
}
