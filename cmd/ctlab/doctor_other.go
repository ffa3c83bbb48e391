//go:build !linux

package main

import "context"

func examine(context.Context) ([]finding, error) { return nil, able() }
