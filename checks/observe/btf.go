//go:build linux

package observe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// kernelTypes is the running kernel's description of its own types (BTF; Documentation/bpf/btf.rst). It is read here
// for the places of a handful of fields: the library's reader indexes all 150,000 types first, which takes some 40 ms of a
// run that is over in 60; this takes 2.
type kernelTypes struct {
	types, names []byte
	file         []byte // mapped, if it is
}

const btfFile = "/sys/kernel/btf/vmlinux"

// openTypes maps the kernel's BTF, or reads it where it cannot be mapped (before Linux 6.16).
func openTypes() (*kernelTypes, error) {
	f, err := os.Open(btfFile)
	if err != nil {
		return nil, fmt.Errorf("this kernel does not describe its types: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	mapped, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
	b := mapped
	if err != nil {
		if b, err = os.ReadFile(btfFile); err != nil {
			return nil, err
		}
	}
	k, err := parseTypes(b)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", btfFile, err), unmap(mapped))
	}
	k.file = mapped
	return k, nil
}

func (k *kernelTypes) close() error { return unmap(k.file) }

func unmap(b []byte) error {
	if b == nil {
		return nil
	}
	return unix.Munmap(b)
}

func parseTypes(b []byte) (*kernelTypes, error) {
	const magic, header = 0xeb9f, 24
	if len(b) < header || binary.NativeEndian.Uint16(b) != magic {
		return nil, errors.New("this is no BTF of this machine")
	}
	word := func(at int) uint64 { return uint64(binary.NativeEndian.Uint32(b[at:])) }
	part := func(offset, length uint64) ([]byte, error) {
		from := word(4) + offset
		if from+length > uint64(len(b)) {
			return nil, errors.New("the BTF is cut off")
		}
		return b[from : from+length], nil
	}
	types, err := part(word(8), word(12))
	if err != nil {
		return nil, err
	}
	names, err := part(word(16), word(20))
	return &kernelTypes{types: types, names: names}, err
}

// Kinds of types, and how much follows the 12 bytes that each has.
const (
	kindInt, kindArray, kindStruct, kindUnion, kindEnum         = 1, 3, 4, 5, 6
	kindProto, kindVar, kindSection, kindDeclTag, kindLongEnum  = 13, 14, 15, 17, 19
	typeHead, memberSize                                        = 12, 12
	enumSize, parameterSize, arraySize, singleSize, longEnumber = 8, 8, 12, 4, 12
)

func tail(kind, count int) int {
	switch kind {
	case kindInt, kindVar, kindDeclTag:
		return singleSize
	case kindArray:
		return arraySize
	case kindStruct, kindUnion, kindSection:
		return count * memberSize
	case kindEnum:
		return count * enumSize
	case kindProto:
		return count * parameterSize
	case kindLongEnum:
		return count * longEnumber
	}
	return 0
}

// offset is where a field stands in a structure, in bytes. The field is one of the structure's own, not of an anonymous
// part of it.
func (k *kernelTypes) offset(structure, field string) (int16, error) {
	members, wide := k.members(structure)
	if members == nil {
		return 0, fmt.Errorf("this kernel has no struct %s", structure)
	}
	for ; len(members) >= memberSize; members = members[memberSize:] {
		if k.name(binary.NativeEndian.Uint32(members)) != field {
			continue
		}
		bits := binary.NativeEndian.Uint32(members[8:])
		if wide {
			bits &= 1<<24 - 1 // the rest is the width of a bit field
		}
		if bits%8 != 0 || bits/8 > 1<<15-1 {
			break
		}
		return int16(bits / 8), nil
	}
	return 0, fmt.Errorf("this kernel's struct %s has no %s", structure, field)
}

// members are those of a structure, and whether their offsets have a width in them.
func (k *kernelTypes) members(structure string) (members []byte, wide bool) {
	at := bytes.Index(k.names, []byte("\x00"+structure+"\x00"))
	if at < 0 {
		return nil, false
	}
	name := uint32(at + 1)
	for b := k.types; len(b) >= typeHead; {
		info := binary.NativeEndian.Uint32(b[4:])
		kind, count := int(info>>24&31), int(info&0xffff)
		end := typeHead + tail(kind, count)
		if end > len(b) {
			break
		}
		if kind == kindStruct && binary.NativeEndian.Uint32(b) == name {
			return b[typeHead:end], info>>31 != 0
		}
		b = b[end:]
	}
	return nil, false
}

func (k *kernelTypes) name(at uint32) string {
	if uint64(at) >= uint64(len(k.names)) {
		return ""
	}
	b := k.names[at:]
	if end := bytes.IndexByte(b, 0); end >= 0 {
		return string(b[:end])
	}
	return ""
}
