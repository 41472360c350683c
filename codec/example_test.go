package codec_test

import (
	"errors"
	"fmt"

	"github.com/jitney-bus/jitney/codec"
)

func ExampleNewSet() {
	set, err := codec.NewSet(codec.JSON, codec.Raw)
	if err != nil {
		panic(err)
	}
	c, err := set.Lookup("Application/JSON; charset=utf-8")
	fmt.Println(c.ContentType(), err)

	_, err = set.Lookup("text/xml")
	var unknown *codec.UnknownTypeError
	fmt.Println(errors.As(err, &unknown), len(set.ContentTypes()))
	fmt.Println(err)
	// Output:
	// application/json <nil>
	// true 2
	// no codec for content type "text/xml": this bus knows application/json, application/octet-stream; add the codec to its configuration
}

func ExampleDecode() {
	var user struct{ Name string }
	fmt.Println(codec.Decode(codec.JSON, []byte(`{"Name":"alice"}`), &user), user.Name)
	fmt.Println(codec.Decode(codec.JSON, []byte(`{"Name":`), &user))
	// Output:
	// <nil> alice
	// decode application/json into struct { Name string }: unexpected end of JSON input
}
