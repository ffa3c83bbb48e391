package guest

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// What guest and host say to each other goes one way, from the guest's virtio port to a pipe. It is a row of frames: a
// byte for the kind, four bytes for the length (big endian), that many bytes, and four of the CRC-32 (IEEE, big endian) of all
// before. The first is a Hello, the last an End.

// Kind is the kind of a frame.
type Kind byte

// The kinds of frames.
const (
	KindHello  Kind = 'h' // JSON of Hello: the guest is up
	KindAlive  Kind = 'a' // nothing: it still is
	KindStdout Kind = 'o' // bytes that ctlab wrote to stdout
	KindStderr Kind = 'e' // bytes that it wrote to stderr
	KindJUnit  Kind = 'j' // bytes of the JUnit report
	KindTrace  Kind = 't' // bytes of the traces
	KindEnd    Kind = 'z' // JSON of End: it is over
)

// Version of the frames. Guest and host are the same program, but may be different builds of it.
const Version = 1

// frameMax bounds a frame. What is longer comes in several.
const frameMax = 64 << 10

// Hello is the first that a guest says.
type Hello struct {
	Version int      `json:"version"`
	Release string   `json:"release"`           // of its kernel
	Modules int      `json:"modules"`           // how many were loaded
	Refused []string `json:"refused,omitempty"` // modules that could not be, and why
}

// End is the last that a guest says.
type End struct {
	Exit  int    `json:"exit"`            // the exit code of ctlab
	Error string `json:"error,omitempty"` // why it could not be run, or its output not be sent
}

// Frame is one of the messages.
type Frame struct {
	Kind    Kind
	Payload []byte
}

// ErrGarbage says that something came that is no frame.
var ErrGarbage = errors.New("not a frame")

// WriteFrame writes a payload, in several frames if it is long.
func WriteFrame(w io.Writer, kind Kind, payload []byte) error {
	for {
		n := min(len(payload), frameMax)
		b := append([]byte{byte(kind), 0, 0, 0, 0}, payload[:n]...)
		binary.BigEndian.PutUint32(b[1:], uint32(n))
		b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
		if _, err := w.Write(b); err != nil {
			return fmt.Errorf("write frame: %w", err)
		}
		if payload = payload[n:]; len(payload) == 0 {
			return nil
		}
	}
}

// ReadFrame reads the next frame. Its error is io.EOF between two frames, io.ErrUnexpectedEOF within one, ErrGarbage, or one of
// the reader.
func ReadFrame(r io.Reader) (Frame, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return Frame{}, err
	}
	f := Frame{Kind: Kind(head[0])}
	switch f.Kind {
	case KindHello, KindAlive, KindStdout, KindStderr, KindJUnit, KindTrace, KindEnd:
	default:
		return Frame{}, fmt.Errorf("%w: it begins with %q", ErrGarbage, head[:])
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > frameMax {
		return Frame{}, fmt.Errorf("%w: of %d bytes", ErrGarbage, n)
	}
	rest := make([]byte, n+crc32.Size)
	if _, err := io.ReadFull(r, rest); errors.Is(err, io.EOF) {
		return Frame{}, io.ErrUnexpectedEOF
	} else if err != nil {
		return Frame{}, err
	}
	f.Payload = rest[:n:n]
	sum := crc32.Update(crc32.ChecksumIEEE(head[:]), crc32.IEEETable, f.Payload)
	if sum != binary.BigEndian.Uint32(rest[n:]) {
		return Frame{}, fmt.Errorf("%w: %q of %d bytes, with the checksum of another", ErrGarbage, f.Kind, n)
	}
	return f, nil
}

// parse reads the JSON of a frame.
func (f Frame) parse(v any) error {
	if err := json.Unmarshal(f.Payload, v); err != nil {
		return fmt.Errorf("%w: %w", ErrGarbage, err)
	}
	return nil
}
