package main

import (
	"bytes"
	"os"
)

// flood writes lines without content: each becomes a record of 41 bytes and more in the container's log.
func flood() {
	lines := bytes.Repeat([]byte{'\n'}, 1<<20)
	for _, stream := range []*os.File{os.Stdout, os.Stderr} {
		go func() {
			for {
				if _, err := stream.Write(lines); err != nil {
					return
				}
			}
		}()
	}
}
