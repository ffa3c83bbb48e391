package guest

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestFramesComeBack(t *testing.T) {
	var b bytes.Buffer
	long := bytes.Repeat([]byte("trace\n"), 40000)
	for _, f := range []Frame{{KindHello, []byte("{}")}, {KindAlive, nil}, {KindTrace, long}, {KindEnd, []byte(`{"exit":1}`)}} {
		if err := WriteFrame(&b, f.Kind, f.Payload); err != nil {
			t.Fatal(err)
		}
	}
	var kinds string
	var trace []byte
	for {
		f, err := ReadFrame(&b)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		kinds += string(f.Kind)
		if f.Kind == KindTrace {
			trace = append(trace, f.Payload...)
		}
	}
	if kinds != "hattttz" || !bytes.Equal(trace, long) {
		t.Errorf("kinds %s, %d bytes of %d", kinds, len(trace), len(long))
	}
}

func TestReadFrameRefuses(t *testing.T) {
	for in, want := range map[string]error{
		"":                             io.EOF,
		"h\x00\x00":                    io.ErrUnexpectedEOF,
		"h\x00\x00\x00\x02{":           io.ErrUnexpectedEOF,
		"h\x00\x00\x00\x02":            io.ErrUnexpectedEOF,
		"SeaBIOS (version":             ErrGarbage,
		"o\x00\x01\x00\x01":            ErrGarbage, // one more than there may be
		"o\xff\xff\xff\xff":            ErrGarbage,
		"\x00\x00\x00\x00\x00\x00\x00": ErrGarbage,
		"a\x00\x00\x00\x00":            io.ErrUnexpectedEOF, // without its checksum
	} {
		if _, err := ReadFrame(strings.NewReader(in)); !errors.Is(err, want) || (want == io.EOF) != (err == io.EOF) {
			t.Errorf("%q: %v, want %v", in, err, want)
		}
	}
}

// Any bit of a frame that changes on its way is noticed, and none of what is left of it is taken.
func TestReadFrameNoticesDamage(t *testing.T) {
	var b bytes.Buffer
	if err := WriteFrame(&b, KindEnd, []byte(`{"exit":1}`)); err != nil {
		t.Fatal(err)
	}
	for bit := range 8 * b.Len() {
		damaged := bytes.Clone(b.Bytes())
		damaged[bit/8] ^= 1 << (bit % 8)
		if f, err := ReadFrame(bytes.NewReader(damaged)); !errors.Is(err, ErrGarbage) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("bit %d: %q, %v", bit, f.Payload, err)
		}
	}
}

// Whatever comes: no panic, bounded frames, and what was read can be written again.
func FuzzReadFrame(f *testing.F) {
	for _, s := range []string{"", "h\x00\x00\x00\x02{}", "a\x00\x00\x00\x00z\x00\x00\x00\x0a{\"exit\":0}", "o\x00\x01\x00\x00", "SeaBIOS"} {
		f.Add([]byte(s))
	}
	var whole bytes.Buffer
	for _, kind := range []Kind{KindHello, KindAlive, KindEnd} {
		if err := WriteFrame(&whole, kind, []byte("{}")); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(whole.Bytes())
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		var out bytes.Buffer
		for {
			at := len(in) - r.Len()
			frame, err := ReadFrame(r)
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, ErrGarbage) {
					t.Fatalf("error of no kind: %v", err)
				}
				if !bytes.HasPrefix(in[:at], out.Bytes()) || out.Len() != at {
					t.Fatalf("%q was read as %q", in[:at], out.Bytes())
				}
				return
			}
			if len(frame.Payload) > frameMax {
				t.Fatalf("a frame of %d bytes", len(frame.Payload))
			}
			if err := WriteFrame(&out, frame.Kind, frame.Payload); err != nil {
				t.Fatal(err)
			}
		}
	})
}
