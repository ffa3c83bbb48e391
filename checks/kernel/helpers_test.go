//go:build linux

package kernel_test

import "fmt"

func itoa(n any) string { return fmt.Sprint(n) }
