package protobuf_test

import (
	"encoding/hex"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/jitney-bus/jitney/codec"
	"github.com/jitney-bus/jitney/codec/protobuf"
)

func TestGolden(t *testing.T) {
	at := &timestamppb.Timestamp{Seconds: 1_700_000_000, Nanos: 5}
	for _, v := range []any{at, &at} {
		data, err := protobuf.Codec.Marshal(v)
		require.NoError(t, err)
		require.Equal(t, "0880e2cfaa061005", hex.EncodeToString(data), "%T", v)
	}
	data, err := protobuf.Codec.Marshal(at)
	require.NoError(t, err)

	got := &timestamppb.Timestamp{Seconds: 9, Nanos: 9}
	require.NoError(t, protobuf.Codec.Unmarshal(data, got))
	require.True(t, proto.Equal(at, got))

	var fresh *timestamppb.Timestamp
	require.NoError(t, protobuf.Codec.Unmarshal(data, &fresh))
	require.True(t, proto.Equal(at, fresh))

	require.NoError(t, protobuf.Codec.Unmarshal(nil, got))
	require.True(t, proto.Equal(&timestamppb.Timestamp{}, got), "an empty body has no field set")
	require.Equal(t, "application/protobuf", protobuf.Codec.ContentType())
}

func TestUnmarshalReplacesNotMerges(t *testing.T) {
	shared := &timestamppb.Timestamp{Seconds: 9}
	v := shared
	require.NoError(t, protobuf.Codec.Unmarshal([]byte{0x08, 0x01}, &v))
	require.Equal(t, int64(1), v.GetSeconds())
	require.Equal(t, int64(9), shared.GetSeconds(), "the message that the pointer had is left alone")
}

func TestUnknownFieldsAreKept(t *testing.T) {
	data, err := protobuf.Codec.Marshal(&timestamppb.Timestamp{Seconds: 1, Nanos: 2})
	require.NoError(t, err)
	var older wrapperspb.Int64Value // knows field 1 only
	require.NoError(t, protobuf.Codec.Unmarshal(data, &older))
	again, err := protobuf.Codec.Marshal(&older)
	require.NoError(t, err)
	require.Equal(t, data, again)
}

func TestUnmarshalKeepsNoReference(t *testing.T) {
	data, err := protobuf.Codec.Marshal(wrapperspb.Bytes([]byte("abc")))
	require.NoError(t, err)
	var got wrapperspb.BytesValue
	require.NoError(t, protobuf.Codec.Unmarshal(data, &got))
	clear(data)
	require.Equal(t, "abc", string(got.GetValue()))
}

func TestRefused(t *testing.T) {
	type plain struct{ A int }
	var nilMessage *timestamppb.Timestamp
	for _, v := range []any{nil, 1, "a", plain{}, &plain{}, new(*plain), nilMessage, &nilMessage} {
		_, err := protobuf.Codec.Marshal(v)
		require.Error(t, err, "%T", v)
	}
	for _, v := range []any{nil, 1, plain{}, &plain{}, new(*plain), nilMessage, (**timestamppb.Timestamp)(nil)} {
		require.Error(t, protobuf.Codec.Unmarshal(nil, v), "%T", v)
	}
	tests := []struct {
		name string
		body []byte
		into proto.Message
	}{
		{"truncated", []byte{0x08}, &timestamppb.Timestamp{}},
		{"field number 0", []byte{0x00, 0x00}, &timestamppb.Timestamp{}},
		{"length over the body", []byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x07, 'a'}, &wrapperspb.StringValue{}},
		{"invalid UTF-8", []byte{0x0a, 0x01, 0xff}, &wrapperspb.StringValue{}},
		{"endless varint", []byte{0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, &timestamppb.Timestamp{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			require.Error(t, protobuf.Codec.Unmarshal(tt.body, tt.into))
		})
	}
}

// Each level of DescriptorProto in itself is one message deep.
func TestDepth(t *testing.T) {
	nested := func(depth int) []byte {
		m := &descriptorpb.DescriptorProto{}
		for range depth - 1 {
			m = &descriptorpb.DescriptorProto{NestedType: []*descriptorpb.DescriptorProto{m}}
		}
		data, err := protobuf.Codec.Marshal(m)
		require.NoError(t, err)
		return data
	}
	require.NoError(t, protobuf.Codec.Unmarshal(nested(codec.MaxDepth), new(descriptorpb.DescriptorProto)))
	err := protobuf.Codec.Unmarshal(nested(codec.MaxDepth+1), new(descriptorpb.DescriptorProto))
	require.ErrorContains(t, err, "recursion depth")
}

func FuzzUnmarshal(f *testing.F) {
	s, err := structpb.NewStruct(map[string]any{"a": []any{1, "x", nil, true}, "b": map[string]any{"c": 1.5}})
	require.NoError(f, err)
	data, err := protobuf.Codec.Marshal(s)
	require.NoError(f, err)
	f.Add(data)
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x07, 'a'})
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = protobuf.Codec.Unmarshal(data, new(*descriptorpb.FileDescriptorProto))
		var v *structpb.Struct
		if protobuf.Codec.Unmarshal(data, &v) != nil {
			return
		}
		again, err := protobuf.Codec.Marshal(v)
		require.NoError(t, err)
		var w structpb.Struct
		require.NoError(t, protobuf.Codec.Unmarshal(again, &w))
	})
}

func ExampleCodec() {
	body, err := codec.Encode(protobuf.Codec, wrapperspb.String("alice"))
	fmt.Printf("%q %v\n", body, err)
	var name *wrapperspb.StringValue
	err = codec.Decode(protobuf.Codec, body, &name)
	fmt.Println(name.GetValue(), err)

	_, err = codec.Encode(protobuf.Codec, struct{ Name string }{"alice"})
	fmt.Println(err)
	// Output:
	// "\n\x05alice" <nil>
	// alice <nil>
	// encode struct { Name string } as application/protobuf: struct { Name string } is not a generated protobuf message (use its pointer type)
}

func BenchmarkUnmarshal(b *testing.B) {
	data, _ := protobuf.Codec.Marshal(timestamppb.Now())
	b.ReportAllocs()
	for b.Loop() {
		var m *timestamppb.Timestamp
		_ = protobuf.Codec.Unmarshal(data, &m)
	}
}

// Commands of one idempotency key are compared by their bytes.
func TestEqualMessagesAreEncodedEqually(t *testing.T) {
	fields := map[string]any{}
	for i := range 20 {
		fields[string(rune('a'+i))] = i
	}
	var first []byte
	for range 20 {
		s, err := structpb.NewStruct(fields)
		require.NoError(t, err)
		data, err := protobuf.Codec.Marshal(s)
		require.NoError(t, err)
		if first == nil {
			first = data
		}
		require.Equal(t, first, data)
	}
}
