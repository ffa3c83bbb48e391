package main

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/token"
	"go/types"
	"path/filepath"
	"strings"

	"golang.org/x/tools/go/ast/astutil"
	"golang.org/x/tools/go/packages"
)

// point is one change that can be switched on.
type point struct {
	id   int
	file string // the base name
	line int
	fn   string // the function in which it is
	what string // the change, such as "a < b -> a <= b"
}

// key names the change whatever its line is.
func (p point) key() string { return p.file + " " + p.fn + ": " + p.what }

func (p point) String() string { return fmt.Sprintf("%s:%d: %s: %s", p.file, p.line, p.fn, p.what) }

// rewriter puts switches for all changes into the files of a package. Its output calls the functions of
// switches.go.txt, each with the number of its change.
type rewriter struct {
	pkg    *packages.Package
	file   string
	fn     string
	was    map[ast.Node]original // as the nodes were before their parts were changed
	points []point
	seen   map[string]int
}

// original is a node as it stands in the source.
type original struct {
	line  int
	text  string // on one line
	left  string // of an operator, its sides
	right string
}

// rewrite changes a file in place.
func (r *rewriter) rewrite(f *ast.File, source []byte) {
	r.file, r.was = filepath.Base(r.pkg.Fset.Position(f.Pos()).Filename), map[ast.Node]original{}
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Body == nil || fn.Name.Name == "String" || fn.Name.Name == "Error" {
			continue
		}
		r.fn = fn.Name.Name
		r.remember(fn.Body, source)
		astutil.Apply(fn.Body, r.before, r.after)
	}
	f.Comments = nil
}

// add makes a point of a node and gives its number. Equal changes in one function are told apart by a count.
func (r *rewriter) add(n ast.Node, was, is string) ast.Expr {
	p := point{id: len(r.points) + 1, file: r.file, line: r.was[n].line, fn: r.fn, what: was + " -> " + is}
	r.seen[p.key()]++
	if again := r.seen[p.key()]; again > 1 {
		p.what += fmt.Sprintf(" #%d", again)
	}
	r.points = append(r.points, p)
	return &ast.BasicLit{Kind: token.INT, Value: fmt.Sprint(p.id)}
}

// remember keeps what the nodes of a function are in the source.
func (r *rewriter) remember(body ast.Node, source []byte) {
	text := func(n ast.Node) string {
		from, to := r.pkg.Fset.Position(n.Pos()).Offset, r.pkg.Fset.Position(n.End()).Offset
		words := strings.Join(strings.Fields(string(source[from:to])), " ")
		if len(words) > 120 {
			words = words[:117] + "..."
		}
		return words
	}
	ast.Inspect(body, func(n ast.Node) bool {
		if n == nil {
			return false
		}
		o := original{line: r.pkg.Fset.Position(n.Pos()).Line, text: text(n)}
		if b, ok := n.(*ast.BinaryExpr); ok {
			o.left, o.right = text(b.X), text(b.Y)
		}
		r.was[n] = o
		return true
	})
}

func call(name string, args ...ast.Expr) *ast.CallExpr {
	return &ast.CallExpr{Fun: ast.NewIdent(name), Args: args}
}

// onlyText are functions whose arguments are read by people.
var onlyText = map[string]bool{"say": true, "drop": true, "fail": true, "notModelled": true, "Sprintf": true, "Errorf": true, "Sprint": true}

// before handles what must not be looked into: text, declarations of constants, and constants as a whole.
func (r *rewriter) before(c *astutil.Cursor) bool {
	switch n := c.Node().(type) {
	case *ast.GenDecl:
		return n.Tok != token.CONST
	case *ast.ArrayType, *ast.MapType, *ast.FuncType:
		return false
	case *ast.CallExpr:
		return !onlyText[calledName(n)]
	case ast.Expr:
		tv := r.pkg.TypesInfo.Types[n]
		if tv.Value == nil || c.Name() == "Key" && isIndexed(r.pkg.TypesInfo, c.Parent()) {
			return tv.Value == nil
		}
		r.constant(c, n, tv)
		return false
	}
	return true
}

func calledName(n *ast.CallExpr) string {
	switch f := n.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}

// isIndexed reports whether keys of a literal's elements are indexes, which must be constant, or field names.
func isIndexed(info *types.Info, n ast.Node) bool {
	_, ok := n.(*ast.KeyValueExpr)
	return ok
}

// constant makes a point of a number, a bit or a truth value; a string stays.
func (r *rewriter) constant(c *astutil.Cursor, n ast.Expr, tv types.TypeAndValue) {
	was := r.was[n].text
	switch tv.Value.Kind() {
	case constant.Bool:
		c.Replace(call("mutantNot", r.add(n, was, "!"+was), n))
	case constant.Int:
		typ := types.TypeString(types.Default(tv.Type), func(p *types.Package) string {
			if p == r.pkg.Types {
				return ""
			}
			return p.Name()
		})
		if basic, ok := tv.Type.Underlying().(*types.Basic); !ok || basic.Info()&types.IsInteger == 0 {
			return
		}
		if v, exact := constant.Int64Val(tv.Value); exact && v == 0 && isBits(typ) {
			return
		}
		if isBits(typ) {
			c.Replace(call("mutantBit["+typ+"]", r.add(n, was, "the bit above"), n))
			return
		}
		id := r.add(n, was, was+"+1")
		r.add(n, was, was+"-1") // has the next number
		c.Replace(call("mutantNumber["+typ+"]", id, n))
	}
}

// isBits reports whether the numbers of a type are sets of bits.
func isBits(typ string) bool {
	return strings.HasSuffix(typ, "Status") || strings.HasSuffix(typ, "Bits") || strings.HasSuffix(typ, "Fields")
}

// after handles what has parts, when these are done.
func (r *rewriter) after(c *astutil.Cursor) bool {
	switch n := c.Node().(type) {
	case *ast.BinaryExpr:
		r.binary(c, n)
	case *ast.CallExpr, *ast.UnaryExpr, *ast.Ident, *ast.SelectorExpr, *ast.IndexExpr:
		if e := n.(ast.Expr); r.isCondition(c) && r.isBool(e) {
			c.Replace(call("mutantNot", r.add(e, r.was[e].text, "not "+r.was[e].text), e))
		}
	case *ast.ExprStmt:
		if call, ok := n.X.(*ast.CallExpr); ok && !onlyText[calledName(call)] {
			r.removable(c, n)
		}
	case *ast.AssignStmt:
		if n.Tok != token.DEFINE && !strings.Contains(strings.ToLower(r.was[n].text[:strings.Index(r.was[n].text, "=")]), "why") {
			r.removable(c, n)
		}
	case *ast.IncDecStmt:
		r.removable(c, n)
	case *ast.BranchStmt:
		if n.Tok == token.CONTINUE && n.Label == nil {
			r.removable(c, n)
		}
	}
	return true
}

func (r *rewriter) isBool(e ast.Expr) bool {
	t := r.pkg.TypesInfo.TypeOf(e)
	return t != nil && types.Identical(t, types.Typ[types.Bool])
}

// isCondition reports whether an expression decides something: an if, a loop, a case, a part of a larger condition, a result.
func (r *rewriter) isCondition(c *astutil.Cursor) bool {
	switch p := c.Parent().(type) {
	case *ast.IfStmt, *ast.ForStmt:
		return c.Name() == "Cond"
	case *ast.BinaryExpr:
		return p.Op == token.LAND || p.Op == token.LOR
	case *ast.CaseClause:
		return c.Name() == "List"
	case *ast.ReturnStmt:
		return true
	case *ast.CallExpr: // of an && or || that was rewritten, which happens only behind its parts
		return false
	}
	return false
}

// comparisons and the name of the switch that moves their boundary.
var boundaries = map[token.Token][2]string{
	token.LSS: {"mutantLess", "<="}, token.LEQ: {"mutantLessEqual", "<"},
	token.GTR: {"mutantGreater", ">="}, token.GEQ: {"mutantGreaterEqual", ">"},
}

func (r *rewriter) binary(c *astutil.Cursor, n *ast.BinaryExpr) {
	was := r.was[n].text
	part := func(op string) string { return r.was[n].left + " " + op + " " + r.was[n].right }
	switch n.Op {
	case token.EQL:
		c.Replace(call("mutantNot", r.add(n, was, part("!=")), n))
	case token.NEQ:
		c.Replace(call("mutantNot", r.add(n, was, part("==")), n))
	case token.LSS, token.LEQ, token.GTR, token.GEQ:
		b := boundaries[n.Op]
		moved := call(b[0], r.add(n, was, part(b[1])), n.X, n.Y)
		c.Replace(call("mutantNot", r.add(n, was, "not "+was), moved))
	case token.LAND, token.LOR:
		name, other := "mutantAnd", "||"
		if n.Op == token.LOR {
			name, other = "mutantOr", "&&"
		}
		later := &ast.FuncLit{Type: &ast.FuncType{Params: &ast.FieldList{}, Results: &ast.FieldList{List: []*ast.Field{{Type: ast.NewIdent("bool")}}}},
			Body: &ast.BlockStmt{List: []ast.Stmt{&ast.ReturnStmt{Results: []ast.Expr{n.Y}}}}}
		c.Replace(call(name, r.add(n, was, part(other)), n.X, later))
	case token.ADD, token.SUB:
		t, ok := r.pkg.TypesInfo.TypeOf(n).Underlying().(*types.Basic)
		if ok && t.Info()&types.IsInteger != 0 {
			name, op := "mutantAdd", "-"
			if n.Op == token.SUB {
				name, op = "mutantSubtract", "+"
			}
			c.Replace(call(name, r.add(n, was, part(op)), n.X, n.Y))
		}
	}
}

// removable puts a statement under a switch that leaves it out.
func (r *rewriter) removable(c *astutil.Cursor, n ast.Stmt) {
	if c.Index() < 0 {
		return
	}
	id := r.add(n, r.was[n].text, "left out")
	c.Replace(&ast.IfStmt{Cond: &ast.UnaryExpr{Op: token.NOT, X: call("mutantOn", id)}, Body: &ast.BlockStmt{List: []ast.Stmt{n}}})
}
