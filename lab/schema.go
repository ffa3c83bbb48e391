package lab

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Schema is a JSON Schema (draft 7, which editors know best) of the lab language, made of the tables by which
// labs are read. It is for completion and marks while a lab is written, and knows forms only: that names
// exist and numbers fit together, Load says.
func Schema() ([]byte, error) {
	root := object(topKeys(), "lab", "nodes", "steps")()
	root["$schema"] = "http://json-schema.org/draft-07/schema#"
	root["title"] = "ctlab lab"
	root["description"] = "A network lab: nodes, services, servers and clients, and steps that play on them."
	defined := map[string]schema{}
	for name, s := range definitions() {
		defined[name] = s()
	}
	root["definitions"] = defined
	standIns(root)
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(root); err != nil {
		return nil, fmt.Errorf("encode schema: %w", err)
	}
	return b.Bytes(), nil
}

// schema is a JSON Schema.
type schema map[string]any

// shape makes the schema of a value. It is a function because tables of keys refer to each other.
type shape func() schema

// definitions are the forms that stand in many places; ref refers to them.
func definitions() map[string]shape {
	return map[string]shape{
		"name":            func() schema { return nameForms(formName) },
		"names":           func() schema { return matching(`[a-z*][a-z0-9*-]*`) },
		"time":            func() schema { return matching(formTime) },
		"times":           func() schema { return matching(formTime + `(?:\.\.(?:` + formTime + `)?)?|\.\.` + formTime) },
		"address":         func() schema { return matching(formAddress) },
		"address-or-more": func() schema { return matching(formAddress + `(?:` + formLength + `)?`) },
		"route": func() schema {
			return matching(formPlace + `(?:/[0-9]+)?(?: +(?:via|dev) +` + formPlace + `)*`)
		},
		"entry":         func() schema { return matching(`(?:no +|(?:` + formRange + `) +x +)?` + formEntry) },
		"entries":       oneOrMore(either(ref("entry"), object(countedKeys(nil, nil), "line", "times"))),
		"packet":        packetShape,
		"event":         func() schema { return matching(`(?:no +)?(?:new|update|destroy) +` + formEntry) },
		"wanted":        either(words("all"), ref("wanted-number")),
		"wanted-number": either(numberOrRange, sameAs),
		"counters":      counters,
		"traffic":       traffic(),
		"each":          traffic("each", "clients"),
		"clients":       clientsByResult,
	}
}

// ref refers to a definition.
func ref(name string) shape {
	return func() schema { return schema{"$ref": "#/definitions/" + name} }
}

// standIns allows everywhere what stands for something else until it is written out: {1..40} and ${i}.
func standIns(s any) {
	switch s := s.(type) {
	case schema:
		if p, ok := s["pattern"].(string); ok {
			s["pattern"] = p + `|\{[0-9]+\.\.[0-9]+\}|\$\{`
		}
		for _, inner := range s {
			standIns(inner)
		}
	case map[string]schema:
		for _, inner := range s {
			standIns(inner)
		}
	case []schema:
		for _, inner := range s {
			standIns(inner)
		}
	}
}

// properties are the keys of a table that are supported, with what they are for.
func properties[T any](keys []key[T]) map[string]schema {
	out := map[string]schema{}
	for _, k := range keys {
		if k.read != nil {
			out[k.name] = k.value.says(k.about)
		}
	}
	return out
}

// says adds words; what stands beside a reference would be ignored.
func (s shape) says(about string) schema {
	out := s()
	if out["$ref"] != nil {
		out = schema{"allOf": []schema{out}}
	}
	out["description"] = about
	return out
}

// object is a map with the keys of a table.
func object[T any](keys []key[T], required ...string) shape {
	return func() schema { return closed(properties(keys), required...) }
}

func closed(properties map[string]schema, required ...string) schema {
	s := schema{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

// named is a map whose keys are names that the lab gives.
func named(value shape) shape {
	return func() schema {
		return schema{"type": "object", "propertyNames": identifier(), "additionalProperties": value()}
	}
}

// valuesOf is a map with any keys.
func valuesOf(value shape) shape {
	return func() schema { return schema{"type": "object", "additionalProperties": value()} }
}

func anything() schema { return schema{} }

// either is one of several shapes.
func either(shapes ...shape) shape {
	return func() schema {
		var all []schema
		for _, s := range shapes {
			all = append(all, s())
		}
		return schema{"anyOf": all}
	}
}

func listOf(value shape) shape {
	return func() schema { return schema{"type": "array", "items": value(), "minItems": 1} }
}

func oneOrMore(value shape) shape { return either(value, listOf(value)) }

func orNone(value shape) shape { return either(words("none"), value) }

// words are a few texts. YAML takes true and false for something else.
func words(texts ...string) shape {
	return func() schema {
		var values []any
		for _, t := range texts {
			if t == "true" || t == "false" {
				values = append(values, t == "true")
			}
			values = append(values, t)
		}
		return schema{"enum": values}
	}
}

func boolean() schema { return words("true", "false")() }

// text is what YAML takes for a text, a number or a boolean: labs have texts only.
func text() schema {
	return schema{"type": []string{"string", "number", "boolean"}, "minLength": 1}
}

func line() schema {
	s := text()
	s["pattern"] = `^.*\n?$`
	return s
}

// matching are texts of a form.
func matching(pattern string) schema {
	return schema{"type": "string", "pattern": "^(?:" + pattern + `)\n?$`}
}

// What the forms of texts are made of.
const (
	formName      = `[a-z][a-z0-9-]*`
	formNumber    = `(?:0|[1-9][0-9]*)`
	formRange     = formNumber + `(?:\.\.` + formNumber + `?)?|\.\.` + formNumber
	formTime      = `(?:` + formNumber + `(?:\.[0-9]{1,3})?(?:d|h|m|s|ms|us))+`
	formByte      = `(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])`
	formIPv4      = formByte + `(?:\.` + formByte + `){3}`
	formIPv6      = `[0-9a-fA-F:.]*:[0-9a-fA-F:.]*` // roughly
	formAddress   = `(?:` + formIPv4 + `|` + formIPv6 + `)`
	formLength    = `/(?:[89]|[1-9][0-9]|1[01][0-9]|12[0-8])`
	formPort      = `(?:[1-5][0-9]{4}|[1-9][0-9]{0,3}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])`
	formPlace     = `(?:[a-z0-9][a-z0-9.-]*|` + formIPv6 + `)`
	formPlacePort = `(?:` + formPlace + `|(?:[a-z0-9][a-z0-9.-]*|\[` + formIPv6 + `\])(?::` + formPort + `)?)`
	formProtocol  = `[a-z0-9-]+`
	formEnd       = `[^ |>]+`
	formTuple     = formEnd + ` +> +` + formEnd
	formEntry     = formProtocol + ` +` + formTuple + `(?: +\| +` + formTuple + `)?(?: +` + formEnd + `)* *`
)

// packetShape is a packet's line, or a map of its parts.
func packetShape() schema {
	line := func() schema {
		return matching(formProtocol + ` +` + formTuple + `(?: +` + formEnd + `)*(?: +about +` + formProtocol + ` +` + formTuple + `(?: +` + formEnd + `)*)? *`)
	}
	return either(line, object(packetKeys(), "protocol", "from", "to"))()
}

// outShape is none, a node, or packets by nodes.
func outShape() schema { return either(words("none"), identifier, valuesOf(ref("packet")))() }

func holdShape() schema { return matching(formProtocol + ` +` + formTuple + ` *`) }

func droppedShape() schema {
	return matching(`routing|conntrack|confirm|(?:raw|mangle|nat|filter) (?:PREROUTING|INPUT|FORWARD|OUTPUT|POSTROUTING)`)
}

// nameForms is a name that is given or referred to.
func nameForms(pattern string) schema {
	s := matching(pattern)
	s["maxLength"] = maxName
	s["not"] = schema{"enum": reserved()}
	return s
}

func identifier() schema { return ref("name")() }

// nameOrGlob is a name, or a pattern of names with stars.
func nameOrGlob() schema { return ref("names")() }

// wholeNumber is a whole number, which may stand in quotes.
func wholeNumber(least, most int64) shape {
	return func() schema {
		return schema{"type": []string{"integer", "string"}, "minimum": least, "maximum": most, "pattern": "^" + formNumber + "$"}
	}
}

// sourcePortShape may be a range, which is dealt out over a pattern of names.
func sourcePortShape() schema {
	s := wholeNumber(1, 65535)()
	s["pattern"] = "^(?:fresh|" + formNumber + `(?:\.\.` + formNumber + ")?)$"
	return s
}

func duration() schema { return ref("time")() }

func durationRange() schema { return ref("times")() }

func address() schema { return ref("address")() }

func addressWithLength() schema { return matching(formAddress + formLength) }

func addressOrPrefix() schema { return ref("address-or-more")() }

func route() schema { return ref("route")() }

func rules() schema { return either(text, named(text))() }

func settings() schema {
	s := valuesOf(text)()
	s["propertyNames"] = matching(`net(?:\.[A-Za-z0-9_-]+)+`)
	return s
}

func portShape() schema { return matching(formPort + `/(?:udp|tcp)`) }

func backendsShape() schema {
	any := listOf(nameOrGlob)()
	delete(any, "minItems")
	return either(nameOrGlob, func() schema { return any })()
}

func listenShape() schema {
	s := wholeNumber(1, 65535)()
	s["pattern"] = "^" + formPlacePort + `$`
	return s
}

func placeWithPort() schema { return matching(formPlacePort) }

func linkEndShape() schema { return matching(formName + `(?::[a-z0-9-]+)?`) }

func deathShape() schema {
	return either(words(string(DeathProcess), string(DeathAddress), string(DeathRoute), string(DeathDrop)),
		func() schema {
			return closed(map[string]schema{string(DeathReuse): ref("name").says("the node that is given the address")}, string(DeathReuse))
		})()
}

func repetitionShape() schema {
	s := valuesOf(func() schema { return matching(formNumber + `(?:\.\.` + formNumber + `)?`) })()
	s["minProperties"], s["maxProperties"] = 1, 1
	return s
}

func numberOrRange() schema {
	return schema{"type": []string{"integer", "string"}, "minimum": 0, "pattern": "^(?:" + formRange + ")$"}
}

func sameAs() schema {
	return closed(map[string]schema{"same-as": shape(line).says("a result of this step, or STEP.RESULT")}, "same-as")
}

func counters() schema {
	all := map[string]schema{}
	for _, name := range counterNames() {
		all[name] = ref("wanted-number").says("by how much it went up")
	}
	return either(words("unchanged"), func() schema { return closed(all) })()
}

// classShape is a class of results alone: all requests are of it.
func classShape() schema { return words(without(countNames(), "sent")...)() }

// traffic is a class, or a map of what is wanted of requests, less some keys.
func traffic(less ...string) shape {
	return func() schema {
		return either(classShape, object(keysWithout(trafficKeys(), less...)))()
	}
}

// clientsByResult is names of clients by what became of their requests, or by who answered.
func clientsByResult() schema {
	who := either(oneOrMore(nameOrGlob), sameAs)
	classes := map[string]schema{"by": shape(valuesOf(who)).says("by the node that answered")}
	for _, name := range without(countNames(), "sent") {
		classes[name] = shape(who).says("clients all of whose requests ended so")
	}
	return closed(classes)
}

// without is a list without some of its texts.
func without(all []string, less ...string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return slices.Contains(less, s) })
}

// steps is the list of steps, each of one of the kinds.
func steps() schema {
	var kinds []schema
	for _, k := range stepKinds() {
		if k.read != nil {
			kinds = append(kinds, k.schema())
		}
	}
	return schema{"type": "array", "minItems": 1, "items": schema{"type": "object", "oneOf": kinds}}
}

// schema of a kind of step: its own keys and those of all steps, and the wants that it can have.
func (k stepKind) schema() schema {
	all := properties(commonKeys())
	maps.Copy(all, properties(k.keys))
	all[string(k.name)] = k.value.says(k.does)
	keys := wantKeys(&stepDraft{Step: &Step{Kind: k.name}, program: k.name == Exec}, &k)
	if k.traffic { // of clients that are programs
		keys = append(keys, programKeys()...)
	}
	want := object(keys)
	if k.traffic {
		want = either(classShape, want)
	}
	all["want"] = want.says(all["want"]["description"].(string))
	s := closed(all, string(k.name))
	s["title"] = string(k.name)
	return s
}

// variantsShape knows how paths begin; what they lead to is the lab's.
func variantsShape() schema {
	value := schema{
		"type":                 "object",
		"properties":           map[string]schema{"about": shape(line).says("in a sentence what is other")},
		"propertyNames":        matching(`about|(?:` + strings.Join(variable(), "|") + `)(?:\.[^.]+)*`),
		"additionalProperties": schema{"not": schema{"type": "null"}},
	}
	return named(func() schema { return value })()
}
