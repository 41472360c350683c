package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// sample is what is imported when no file is named.
//
//go:embed testdata/orders.csv
var sample []byte

// source is an input before it is read.
type source struct {
	io.ReadCloser
	format string
	// job names the import: a second import of the same file has the same name,
	// so that its rows are recognised.
	job string
	// about is how many rows there seem to be, 0 if that is not known.
	about int
}

// openSource opens a file, the sample if path is "", or stdin if it is "-".
// format is "csv", "jsonl", or "" to tell by the file's extension.
func openSource(path, format string, stdin io.Reader) (*source, error) {
	switch path {
	case "":
		return describe(io.NopCloser(bytes.NewReader(sample)), bytes.NewReader(sample), "sample", "csv")
	case "-":
		in, ok := stdin.(io.ReadCloser)
		if !ok {
			in = io.NopCloser(stdin)
		}
		return &source{ReadCloser: in, format: orCSV(format), job: "stdin-" + strings.ToLower(rand.Text()[:8])}, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	ext := filepath.Ext(path)
	base := strings.TrimSuffix(filepath.Base(path), ext)
	if format == "" {
		switch strings.ToLower(ext) {
		case ".jsonl", ".ndjson", ".json":
			format = "jsonl"
		}
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if !info.Mode().IsRegular() { // a pipe can be read once only
		if info.IsDir() {
			f.Close()
			return nil, fmt.Errorf("%s is a folder", path)
		}
		return &source{ReadCloser: f, format: orCSV(format), job: base + "-" + strings.ToLower(rand.Text()[:8])}, nil
	}
	s, err := describe(f, f, base, orCSV(format))
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return s, nil
}

func orCSV(format string) string {
	if format == "" {
		return "csv"
	}
	return format
}

// describe reads all of r to name the job after its content and to count lines.
func describe(in io.ReadCloser, r io.Reader, base, format string) (*source, error) {
	sum := sha256.New()
	lines := 0
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		sum.Write(buf[:n])
		lines += bytes.Count(buf[:n], []byte("\n"))
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	if format == "csv" && lines > 0 {
		lines-- // the header
	}
	job := base + "-" + hex.EncodeToString(sum.Sum(nil)[:4])
	return &source{ReadCloser: in, format: format, job: job, about: lines}, nil
}
