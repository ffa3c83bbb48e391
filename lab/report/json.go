package report

import (
	"encoding/json"
	"errors"
	"io"

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
	Version  int           `json:"ctlab"`
	Command  string        `json:"command"` // run, predict or compare
	Runs     []jsonRun     `json:"runs"`
	Compared []jsonCompare `json:"compared"` // compare: a table a lab
	Exit     int           `json:"exit"`     // the exit code that ctlab ends with
}

type jsonRun struct {
	Lab     string         `json:"lab"`
	File    string         `json:"file"`
	Variant string         `json:"variant,omitempty"`
	About   string         `json:"about,omitempty"`
	Verdict string         `json:"verdict"` // PASS, FAIL, INCONCLUSIVE, BROKEN or INTERRUPTED
	Error   string         `json:"error,omitempty"`
	Setting jsonSetting    `json:"setting"`
	Wants   jsonWants      `json:"wants"`
	Steps   []jsonStep     `json:"steps"`
	Final   []jsonSnapshot `json:"final"` // each tracked node when the steps were over
	Model   []jsonModel    `json:"model"` // the comparison of kernel and model on each tracked node
	Skipped string         `json:"model-skipped,omitempty"`
	Margins []jsonMargin   `json:"margins"`
	Wall    int64          `json:"wall-ns"`
	Waits   int64          `json:"waits-ns"` // the part of it in which the script waited
}

type jsonSetting struct {
	Simulated bool   `json:"simulated"`
	Seed      uint64 `json:"seed,omitempty"`
	Kernel    string `json:"kernel,omitempty"`
	Iptables  string `json:"iptables,omitempty"`
	Profile   string `json:"profile,omitempty"`
	Nodes     int    `json:"nodes"`
	Build     int64  `json:"build-ns"`
}

type jsonWants struct {
	Met int `json:"met"`
	All int `json:"all"`
}

type jsonStep struct {
	Index     int            `json:"index"`
	Name      string         `json:"name,omitempty"`
	Kind      string         `json:"kind"`
	Title     string         `json:"title"`
	Position  string         `json:"position"` // FILE:LINE:COLUMN
	Began     int64          `json:"began-ns"`
	Ended     int64          `json:"ended-ns"`
	OK        bool           `json:"ok"` // every want was met
	NotPlayed string         `json:"not-played,omitempty"`
	Attempts  []jsonAttempt  `json:"attempts"`
	Restarted *jsonRestarted `json:"restarted,omitempty"`
	Deleted   []jsonDeleted  `json:"deleted"`
	Program   *jsonProgram   `json:"program,omitempty"`
	Snapshots []jsonSnapshot `json:"snapshots"`
	Wants     []jsonWant     `json:"wants"`
}

type jsonAttempt struct {
	Client     string    `json:"client"`
	Number     int       `json:"number"`
	Control    bool      `json:"control"`
	Background bool      `json:"background"`
	Node       string    `json:"node,omitempty"`
	Flow       jsonTuple `json:"flow"`
	At         int64     `json:"at-ns"`
	Took       int64     `json:"took-ns"`
	Class      string    `json:"class"`
	By         string    `json:"by,omitempty"`
	From       string    `json:"from,omitempty"`
	Error      string    `json:"error,omitempty"`
	Before     *jsonSeen `json:"before,omitempty"`
	After      *jsonSeen `json:"after,omitempty"`
}

type jsonTuple struct {
	Line     string `json:"line"`
	Protocol string `json:"protocol"`
	Src      string `json:"src"`
	SrcPort  uint16 `json:"src-port,omitempty"`
	Dst      string `json:"dst"`
	DstPort  uint16 `json:"dst-port,omitempty"`
}

type jsonSeen struct {
	At    int64     `json:"at-ns"`
	Stale bool      `json:"stale"`
	Age   *int64    `json:"age-ns,omitempty"` // since the flow's last packet was sent
	Entry jsonEntry `json:"entry"`
}

type jsonEntry struct {
	Line    string      `json:"line"` // the one line form, which labs read
	Orig    jsonTuple   `json:"orig"`
	Reply   jsonTuple   `json:"reply"`
	Status  []string    `json:"status"`
	State   string      `json:"state,omitempty"` // of TCP
	Timeout *uint32     `json:"timeout-seconds,omitempty"`
	Mark    *uint32     `json:"mark,omitempty"`
	Zone    *uint16     `json:"zone,omitempty"`
	ID      *uint32     `json:"id,omitempty"`
	Packets *jsonCounts `json:"packets,omitempty"`
	Bytes   *jsonCounts `json:"bytes,omitempty"`
}

type jsonCounts struct {
	Orig  uint64 `json:"orig"`
	Reply uint64 `json:"reply"`
}

type jsonRestarted struct {
	Server   string      `json:"server"`
	From     string      `json:"from"`
	To       string      `json:"to"`
	Death    string      `json:"death,omitempty"`
	Reuse    string      `json:"reuse,omitempty"`
	Services []string    `json:"services"`
	Cleanup  jsonCleanup `json:"cleanup"`
}

type jsonCleanup struct {
	Mode  string `json:"mode,omitempty"`
	Order string `json:"order"`
	Delay int64  `json:"delay-ns"`
}

type jsonDeleted struct {
	Node    string    `json:"node"`
	Healthy bool      `json:"healthy"`
	Entry   jsonEntry `json:"entry"`
}

type jsonProgram struct {
	Exit   int    `json:"exit"`
	Stdout string `json:"stdout"`
	Stderr string `json:"stderr"`
}

type jsonSnapshot struct {
	Node     string            `json:"node"`
	At       int64             `json:"at-ns"`
	Entries  []jsonSeen        `json:"entries"`
	Hits     map[string]uint64 `json:"rule-hits"`
	Counters map[string]uint32 `json:"counters"`       // since the node was made
	Since    map[string]uint32 `json:"counters-since"` // since the last check
	Events   []jsonEvent       `json:"events"`
}

type jsonEvent struct {
	Kind  string    `json:"kind"`
	Entry jsonEntry `json:"entry"`
}

type jsonWant struct {
	Position string    `json:"position"`
	Want     string    `json:"want"`
	Got      string    `json:"got"`
	OK       bool      `json:"ok"`
	Near     *jsonNear `json:"near,omitempty"`
}

type jsonNear struct {
	Entry   jsonEntry `json:"entry"`
	Differs []string  `json:"differs"`
}

type jsonModel struct {
	Node        string           `json:"node"`
	Profile     string           `json:"profile"`
	Verdict     string           `json:"verdict"` // same, different or inconclusive
	Reads       int              `json:"reads"`
	Fields      int              `json:"fields"`
	Free        map[string]int   `json:"free"` // choices that were left to what was seen, by kind
	Differences []jsonDifference `json:"differences"`
	Lost        []string         `json:"lost"` // evidence that was lost
}

type jsonDifference struct {
	At     int64  `json:"at-ns"`
	What   string `json:"what"`
	Field  string `json:"field"`
	Kernel string `json:"kernel"`
	Model  string `json:"model"`
	Why    string `json:"why,omitempty"`
}

type jsonMargin struct {
	At   int64  `json:"at-ns"`
	Node string `json:"node"`
	What string `json:"what"`
	Off  int64  `json:"off-ns"` // below 0: before the boundary
}

type jsonCompare struct {
	Lab       string    `json:"lab"`
	File      string    `json:"file"`
	About     string    `json:"about,omitempty"`
	Simulated bool      `json:"simulated"`
	Kernel    string    `json:"kernel,omitempty"`
	Profile   string    `json:"profile,omitempty"`
	Took      int64     `json:"took-ns"`
	Rows      []jsonRow `json:"rows"`
}

type jsonRow struct {
	Variant   string    `json:"variant,omitempty"` // left out for the lab as it is
	About     string    `json:"about,omitempty"`
	Lost      int       `json:"lost"`
	Sent      int       `json:"sent"`
	Outage    int64     `json:"outage-ns"`
	ForGood   bool      `json:"for-good"`
	Deleted   int       `json:"deleted"`
	Harmed    int       `json:"harmed"`
	Entry     string    `json:"entry"`
	Word      string    `json:"word"`
	Verdict   string    `json:"verdict"`
	Wants     jsonWants `json:"wants"`
	Agreement string    `json:"agreement"`
	NotPlayed int       `json:"not-played"`
	Error     string    `json:"error,omitempty"`
}

// NewDocument makes the document of a command.
func NewDocument(command string, runs []*lab.Result, compared []Comparison, exit int) Document {
	return Document{Version: DocumentVersion, Command: command, Runs: each(runs, newJSONRun), Compared: each(compared, newJSONCompare), Exit: exit}
}

// Write writes the document, indented, with a newline at the end.
func (d Document) Write(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(d)
}

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
			Profile: r.Setting.Profile, Nodes: r.Setting.Nodes, Build: int64(r.Setting.Took)},
		Wants:   jsonWants{met, all},
		Steps:   each(r.Steps, newJSONStep),
		Final:   each(r.Evidence.Final, newJSONSnapshot),
		Model:   []jsonModel{},
		Skipped: r.Lab.SkipModel,
		Margins: each(r.Evidence.Margins, func(m lab.Margin) jsonMargin { return jsonMargin{int64(m.At), m.Node, m.What, int64(m.Off)} }),
		Wall:    int64(r.Wall), Waits: int64(r.Evidence.Waits),
	}
	if !r.Setting.Simulated && r.Lab.SkipModel == "" {
		run.Model = each(r.Comparisons, newJSONModel)
	}
	if err := errors.Join(r.Err, r.CloseErr); err != nil {
		run.Error = err.Error()
	}
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
		Snapshots: each(out.Snapshots, newJSONSnapshot),
		Wants:     each(s.Wants, newJSONWant),
	}
	if r := out.Restarted; r != nil {
		step.Restarted = &jsonRestarted{r.Server, r.From, r.To, string(r.Death), r.Reuse, each(r.Services, asString), newJSONCleanup(r.Cleanup)}
	}
	if p := out.Program; p != nil {
		step.Program = &jsonProgram{p.Exit, p.Stdout, p.Stderr}
	}
	return step
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
			jsonWants{r.WantsMet, r.Wants}, string(r.Agreement), r.NotPlayed, r.Err}
	})}
}
