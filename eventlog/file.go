package eventlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
)

// FileConfig configures a file of entries.
type FileConfig struct {
	// Path names the file. It belongs to one process: two that write into one file
	// would rotate it under each other.
	Path string
	// MaxBytes is how large the file may become before it is rotated: Path becomes
	// Path.1, which was Path.2 and so on. Default 100 MiB. One entry takes up to
	// about 4 KiB, and mostly 300 bytes.
	MaxBytes int64
	// Keep is how many rotated files are kept. Default 5; negative: none.
	Keep int
	// Sync waits for the disk after each write, so that entries survive a power
	// failure. Default: only when a file is rotated or closed; they survive the
	// death of the process all the same.
	Sync bool
	// Mode is the file's, when it is made. Default 0600.
	Mode fs.FileMode
}

// File is a Sink that writes one entry a line, as JSON. OpenFile makes it.
//
// A line is in one file and whole: what a process that was killed left of one, or a
// disk that was full, is cut off.
type File struct {
	cfg  FileConfig
	f    *os.File // nil after a rotation that failed
	size int64
	buf  bytes.Buffer
}

// OpenFile opens the file to append to it, or makes it.
func OpenFile(cfg FileConfig) (*File, error) {
	if cfg.Path == "" {
		return nil, errors.New("eventlog: FileConfig.Path is empty")
	}
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = 100 << 20
	}
	if cfg.Keep == 0 {
		cfg.Keep = 5
	}
	if cfg.Mode == 0 {
		cfg.Mode = 0o600
	}
	f := &File{cfg: cfg}
	if err := f.open(); err != nil {
		return nil, fmt.Errorf("eventlog: %w", err)
	}
	return f, nil
}

// open opens the file at its end, without what is left of an unfinished line.
func (f *File) open() error {
	file, err := os.OpenFile(f.cfg.Path, os.O_RDWR|os.O_CREATE|os.O_APPEND, f.cfg.Mode)
	if err != nil {
		return err
	}
	size, err := wholeLines(file)
	if err == nil {
		err = file.Truncate(size)
	}
	if err != nil {
		return errors.Join(err, file.Close())
	}
	f.f, f.size = file, size
	return nil
}

// wholeLines returns how much of a file is lines with an end.
func wholeLines(file *os.File) (int64, error) {
	end, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	part := make([]byte, 8<<10)
	for end > 0 {
		n := min(end, int64(len(part)))
		if _, err := file.ReadAt(part[:n], end-n); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(part[:n], '\n'); i >= 0 {
			return end - n + int64(i) + 1, nil
		}
		end -= n
	}
	return 0, nil
}

// Write implements Sink.
func (f *File) Write(entries []Entry) error {
	f.buf.Reset()
	for _, e := range entries {
		line, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("eventlog: %w", err) // cannot happen: texts, numbers and a time
		}
		if used := f.size + int64(f.buf.Len()); used > 0 && used+int64(len(line))+1 > f.cfg.MaxBytes {
			if err := errors.Join(f.flush(), f.rotate()); err != nil {
				return fmt.Errorf("eventlog: %w", err)
			}
		}
		f.buf.Write(line)
		f.buf.WriteByte('\n')
	}
	if err := f.flush(); err != nil {
		return fmt.Errorf("eventlog: %w", err)
	}
	return nil
}

// flush writes what is in the buffer, with one call. What is written in part is
// taken back.
func (f *File) flush() error {
	if f.buf.Len() == 0 {
		return nil
	}
	defer f.buf.Reset()
	if f.f == nil {
		if err := f.open(); err != nil {
			return err
		}
	}
	n, err := f.f.Write(f.buf.Bytes())
	if err != nil {
		if n > 0 {
			err = errors.Join(err, f.f.Truncate(f.size))
		}
		return err
	}
	f.size += int64(n)
	if f.cfg.Sync {
		return f.f.Sync()
	}
	return nil
}

// rotate moves the files up by one, the oldest out, and begins a new one. A process
// that dies in between leaves a gap in the numbers, which the next rotation closes.
func (f *File) rotate() error {
	if f.f != nil {
		err := errors.Join(f.f.Sync(), f.f.Close())
		f.f, f.size = nil, 0
		if err != nil {
			return err
		}
	}
	if f.cfg.Keep < 0 {
		if err := os.Remove(f.cfg.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return f.open()
	}
	for n := f.cfg.Keep; n > 0; n-- {
		from := f.cfg.Path
		if n > 1 {
			from = f.numbered(n - 1)
		}
		if err := os.Rename(from, f.numbered(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return f.open()
}

func (f *File) numbered(n int) string { return f.cfg.Path + "." + strconv.Itoa(n) }

// Close implements Sink.
func (f *File) Close() error {
	if f.f == nil {
		return nil
	}
	err := errors.Join(f.f.Sync(), f.f.Close())
	f.f = nil
	return err
}
