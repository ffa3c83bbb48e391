package play

import "errors"

// ErrNotSimulated says that a ground cannot do what only a kernel can, such as running a program.
var ErrNotSimulated = errors.New("not simulated")
