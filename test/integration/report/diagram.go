package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// diagram is a timeline as a sequence diagram, in SVG's units. Time runs downwards,
// but not to scale: long times are compressed, and each event has room for its
// label.
type diagram struct {
	Height   int
	Parties  []textAt
	Messages []message
	Notes    []message
	Times    []textAt
	// Gaps label the pauses of at least longGap.
	Gaps []textAt
}

// textAt is a text and its position.
type textAt struct {
	Text string
	X, Y int
}

// message is an event as it is drawn, with its Label. A note is a band that starts at
// Top. Any other event is an arrow along Path. If the message is lost, Wait is the
// path that shows how long its sender waited.
type message struct {
	Event
	Label       string
	X, Y        int
	Anchor      string
	Path, Wait  string
	Top, Height int
}

const (
	// diagramTop is the start of time, below the parties' names.
	diagramTop = 36
	// textRoom is the height of a label above the start of its arrow.
	textRoom = 18
	// timeRoom is the height of a printed time.
	timeRoom = 12
	// slant is the minimum height of an arrow.
	slant = 10
	// longestLabel is how many characters fit between two lifelines.
	longestLabel = 40
	// longGap is in milliseconds.
	longGap = 1000
)

// lanes are the positions of the lifelines. page.html has the same numbers. Any
// other party is at the left edge.
var lanes = map[Party]int{Caller: 110, Orders: 400, Inventory: 690}

// instant is the start or the end of an event.
type instant struct {
	at    float64
	event int
	end   bool
}

// room is the height for a duration in milliseconds.
func room(ms float64) int { return int(min(60, 6*math.Log2(1+ms))) }

func draw(timeline []Event) diagram {
	var instants []instant
	for i, e := range timeline {
		instants = append(instants, instant{e.AtMS, i, false}, instant{max(e.AtMS, e.UntilMS), i, true})
	}
	slices.SortStableFunc(instants, func(a, b instant) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.event, b.event))
	})

	var d diagram
	y, began, ended := diagramTop, make([]int, len(timeline)), make([]int, len(timeline))
	for i, now := range instants {
		last := y
		if i > 0 {
			passed := now.at - instants[i-1].at
			y += room(passed)
			if passed >= longGap {
				d.Gaps = append(d.Gaps, textAt{"⋮ " + duration(passed), 0, (last + y) / 2})
			}
		}
		if now.end {
			y = max(y, began[now.event]+slant)
			ended[now.event] = y
		} else {
			y = max(y, last+textRoom)
			began[now.event] = y
		}
	}
	d.Height = y + 16
	for _, p := range []Party{Caller, Orders, Inventory} {
		d.Parties = append(d.Parties, textAt{string(p), lanes[p], 14})
	}
	d.Times = times(instants, began, ended)
	for i, e := range timeline {
		if e.From == "" {
			d.Notes = append(d.Notes, note(e, began[i], ended[i]))
		} else {
			d.Messages = append(d.Messages, arrow(e, began[i], ended[i]))
		}
	}
	return d
}

// times prints the time of each start and, if there is room, of each end.
func times(instants []instant, began, ended []int) []textAt {
	var all []textAt
	for _, now := range instants {
		if !now.end {
			all = append(all, textAt{clock(now.at), 0, began[now.event]})
		}
	}
	for _, now := range instants {
		y := ended[now.event]
		if now.end && !slices.ContainsFunc(all, func(p textAt) bool { return max(p.Y-y, y-p.Y) < timeRoom }) {
			all = append(all, textAt{clock(now.at), 0, y})
		}
	}
	return all
}

func note(e Event, from, to int) message {
	return message{Event: e, Label: label(e), X: lanes[Orders] + 8, Y: from - 4, Top: from - textRoom, Height: to - from + textRoom}
}

// arrow draws an arrow between two lifelines. A lost message ends half way, and a bar
// shows until when its sender waited.
func arrow(e Event, from, to int) message {
	x, target := lanes[e.From], lanes[e.To]
	m := message{Event: e, Label: label(e), X: x + 8, Y: from - 4}
	if target < x {
		m.X, m.Anchor = x-8, "end"
	}
	switch {
	case e.Lost:
		m.Path = fmt.Sprintf("M%d %dL%d %d", x, from, (x+target)/2, from+slant)
		m.Wait = fmt.Sprintf("M%d %dV%d", x, from, to)
	case x == target:
		m.Path = fmt.Sprintf("M%d %dh20V%dh-20", x, from, to)
	default:
		m.Path = fmt.Sprintf("M%d %dL%d %d", x, from, target, to)
	}
	return m
}

func label(e Event) string {
	text := e.Text
	if e.Repair {
		text = "↻ " + text
	}
	if letters := []rune(text); len(letters) > longestLabel {
		return string(letters[:longestLabel-1]) + "…"
	}
	return text
}

// Class is its CSS class.
func (m message) Class() string {
	var class []string
	if m.Repair {
		class = append(class, "repair")
	}
	if m.Lost {
		class = append(class, "lost")
	}
	return strings.Join(class, " ")
}

// Title is the tooltip. It includes the text if the label is shortened.
func (m message) Title() string {
	title := fmt.Sprintf("%s to %s ms", clock(m.AtMS), clock(m.UntilMS))
	if !strings.HasSuffix(m.Label, m.Text) {
		title = m.Text + ": " + title
	}
	if m.Lost {
		title += ", lost"
	}
	if m.Detail != "" {
		title += "\n" + m.Detail
	}
	return title
}

func clock(ms float64) string {
	if math.Abs(ms) < 10 {
		return fmt.Sprintf("%.1f", ms)
	}
	return fmt.Sprintf("%.0f", ms)
}

// duration formats milliseconds.
func duration(ms float64) string {
	if math.Abs(ms) < 1000 {
		return clock(ms) + " ms"
	}
	return fmt.Sprintf("%.1f s", ms/1000)
}
