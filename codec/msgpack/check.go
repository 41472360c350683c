package msgpack

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/jitney-bus/jitney/codec"
)

// check walks one MessagePack item that must fill data, and reports whether
// there is binary in it. The library trusts the lengths that data declares: a
// short body could make it allocate without end, recurse without end, or index
// past its end. After check, none of them can happen.
func check(data []byte) (hasBinary bool, err error) {
	c := checker{data: data}
	if err := c.item(0, false); err != nil {
		return false, err
	}
	if c.pos != len(data) {
		return false, fmt.Errorf("%d bytes after the end of the message", len(data)-c.pos)
	}
	return c.hasBinary, nil
}

type checker struct {
	data      []byte
	pos       int
	hasBinary bool
}

var errTruncated = errors.New("truncated")

// The first byte of an item, as in the MessagePack specification.
const (
	fixMap, fixArray, fixStr, nilByte                  = 0x80, 0x90, 0xa0, 0xc0
	falseByte, trueByte                                = 0xc2, 0xc3
	bin8, bin16, bin32, ext8, ext16, ext32             = 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9
	float32Byte, float64Byte                           = 0xca, 0xcb
	uint8Byte, uint16Byte, uint32Byte, uint64Byte      = 0xcc, 0xcd, 0xce, 0xcf
	int8Byte, int16Byte, int32Byte, int64Byte          = 0xd0, 0xd1, 0xd2, 0xd3
	fixExt1, fixExt2, fixExt4, fixExt8, fixExt16       = 0xd4, 0xd5, 0xd6, 0xd7, 0xd8
	str8, str16, str32, array16, array32, map16, map32 = 0xd9, 0xda, 0xdb, 0xdc, 0xdd, 0xde, 0xdf
	negativeFixInt                                     = 0xe0
)

// item walks one item at the depth given.
func (c *checker) item(depth int, isKey bool) error {
	if c.pos >= len(c.data) {
		return errTruncated
	}
	b := c.data[c.pos]
	c.pos++
	switch {
	case b < fixMap || b >= negativeFixInt || b == nilByte || b == falseByte || b == trueByte:
		return nil
	case b < fixArray:
		return c.items(2*uint64(b-fixMap), true, depth, isKey)
	case b < fixStr:
		return c.items(uint64(b-fixArray), false, depth, isKey)
	case b < nilByte:
		return c.skip(uint64(b - fixStr))
	}
	switch b {
	case uint8Byte, int8Byte:
		return c.skip(1)
	case uint16Byte, int16Byte:
		return c.skip(2)
	case uint32Byte, int32Byte, float32Byte:
		return c.skip(4)
	case uint64Byte, int64Byte, float64Byte:
		return c.skip(8)
	case fixExt1, fixExt2, fixExt4, fixExt8, fixExt16:
		return c.skip(1 + 1<<(b-fixExt1))
	}
	switch b {
	case str8, str16, str32:
		n, err := c.length(1 << (b - str8))
		if err != nil {
			return err
		}
		return c.skip(n)
	case bin8, bin16, bin32:
		n, err := c.length(1 << (b - bin8))
		if err != nil {
			return err
		}
		if isKey {
			return fmt.Errorf("binary as a map key at offset %d", c.pos)
		}
		c.hasBinary = true
		return c.skip(n)
	case ext8, ext16, ext32:
		n, err := c.length(1 << (b - ext8))
		if err != nil {
			return err
		}
		return c.skip(1 + n)
	case array16, array32:
		n, err := c.length(2 << (b - array16))
		if err != nil {
			return err
		}
		return c.items(n, false, depth, isKey)
	case map16, map32:
		n, err := c.length(2 << (b - map16))
		if err != nil {
			return err
		}
		return c.items(2*n, true, depth, isKey)
	}
	return fmt.Errorf("byte 0x%02x at offset %d begins no item", b, c.pos-1)
}

// items walks the n items of an array, or the keys and values of a map.
func (c *checker) items(n uint64, isMap bool, depth int, isKey bool) error {
	if isKey {
		return fmt.Errorf("array or map as a map key at offset %d", c.pos)
	}
	if depth++; depth > codec.MaxDepth {
		return fmt.Errorf("nested deeper than %d at offset %d", codec.MaxDepth, c.pos)
	}
	if n > uint64(len(c.data)-c.pos) {
		return errTruncated // each item is a byte at least
	}
	for i := range n {
		if err := c.item(depth, isMap && i%2 == 0); err != nil {
			return err
		}
	}
	return nil
}

// length reads a length of size bytes.
func (c *checker) length(size int) (uint64, error) {
	if size > len(c.data)-c.pos {
		return 0, errTruncated
	}
	b := c.data[c.pos : c.pos+size]
	c.pos += size
	switch size {
	case 1:
		return uint64(b[0]), nil
	case 2:
		return uint64(binary.BigEndian.Uint16(b)), nil
	default:
		return uint64(binary.BigEndian.Uint32(b)), nil
	}
}

// skip passes n bytes of content.
func (c *checker) skip(n uint64) error {
	if n > uint64(len(c.data)-c.pos) {
		return errTruncated
	}
	c.pos += int(n)
	return nil
}
