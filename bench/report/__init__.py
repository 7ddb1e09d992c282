"""What people see of finished cells: tables, pages, figures, exports, sheets to annotate."""
